# The workflow from raw data to the audited report: `snakemake --cores 2 all`, on a cluster `snakemake --profile slurm all`.
# Another study: `--configfile studies/X.yaml`. The rules stand in workflow/rules, one file per stage.


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/gather.smk"
include: "workflow/rules/report.smk"


localrules:
    all,
    packs,


rule all:
    input:
        f"{ROOT}/audit/audit.json",
    default_target: True


rule packs:
    input:
        expand(f"{ROOT}/logs/packs/{{pack}}.json", pack=PACKS),
