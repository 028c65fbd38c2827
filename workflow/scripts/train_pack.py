"""Many small cells in one process, each into its own checkpoint folder."""

from chemscale.training.run import main_pack

main_pack(
    snakemake.params.cells,
    root=snakemake.params.root,
    data_dir=snakemake.params.data_dir,
    code=snakemake.params.code,
    marker=snakemake.output[0],
)
