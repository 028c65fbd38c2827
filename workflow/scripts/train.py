"""One cell: training, validation and test; or its finished training, published."""

from chemscale.training.launch import main

main(
    snakemake.params.cell,
    root=snakemake.params.root,
    data_dir=snakemake.params.data_dir,
    code=snakemake.params.code,
    log_file=snakemake.log[0],
)
