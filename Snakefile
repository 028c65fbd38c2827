# The workflow from raw data to the audited report: `snakemake --cores 2 all`, on a cluster `snakemake --profile slurm all`.
# Another study: `--configfile studies/X.yaml`. The rules stand in workflow/rules, one file per stage.


include: "workflow/rules/common.smk"
include: "workflow/rules/due.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/gather.smk"
include: "workflow/rules/report.smk"


localrules:
    all,
    packs,


rule all:
    default_target: True
    input:
        lambda wildcards: due_files(),


rule packs:
    input:
        lambda wildcards: due_packs(verdicts()),
