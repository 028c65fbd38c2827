"""Many small cells in one process, each into its own checkpoint folder."""

from chemscale.training.run import main_pack

main_pack(
    snakemake.params.cells,
    root=snakemake.params.root,
    data_dir=snakemake.params.data_dir,
    codes=snakemake.params.codes,
    marker=snakemake.output[0],
    log_file=snakemake.log[0],
)
