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


# every file of the study is asked for by name: one that was deleted is made again, not missed only by the audit
rule all:
    input:
        rules.seal.input,
        rules.seal.output,
        rules.audit.output,
    default_target: True


rule packs:
    input:
        expand(f"{ROOT}/logs/packs/{{pack}}.json", pack=PACKS),
