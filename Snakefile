# The workflow from raw data to the audited report: `snakemake --cores 2 all`, on a cluster `snakemake --profile slurm all`.
# Another study: `--configfile studies/X.yaml`. The rules stand in workflow/rules, one file per stage.


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/gather.smk"
include: "workflow/rules/report.smk"


localrules:
    all,
    packs,


# every file is asked for by name: one that was deleted, or that failed to be made anew, is never passed over
rule all:
    default_target: True
    input:
        PREPARED,
        rules.seal.input,
        rules.seal.output,
        rules.audit.output,


rule packs:
    input:
        expand(f"{ROOT}/logs/packs/{{pack}}.json", pack=PACKS),
