# The records of all cells into tables, and laws from the tables.


localrules:
    study,
    plan,


rule study:
    output:
        f"{ROOT}/config.json",
    params:
        study=STUDY.resolved(),
        root=ROOT,
    script:
        "../scripts/study.py"


rule plan:
    input:
        rules.study.output,
    output:
        f"{ROOT}/tables/plan.parquet",
    log:
        f"{ROOT}/logs/plan.log",
    params:
        code=stage_digest("plan"),
        root=ROOT,
    script:
        "../scripts/plan.py"


rule gather:
    input:
        config=rules.study.output,
        records=expand(
            f"{ROOT}/{{cell}}/{{record}}",
            cell=KEPT,
            record=["metrics.json", "provenance.json", "test_clusters.parquet"],
        ),
        evaluations=expand(f"{ROOT}/{{cell}}/evaluation.json", cell=EVALUATED),
    output:
        cells=f"{ROOT}/tables/cells.parquet",
        controls=f"{ROOT}/tables/controls.parquet",
        clusters=f"{ROOT}/tables/test_clusters.parquet",
        evaluation=f"{ROOT}/tables/evaluation.parquet",
    log:
        f"{ROOT}/logs/gather.log",
    params:
        code=stage_digest("gather"),
        root=ROOT,
    script:
        "../scripts/gather.py"


rule fits:
    input:
        config=rules.study.output,
        tables=rules.gather.output,
    output:
        fits=f"{ROOT}/tables/fits.parquet",
        controls=f"{ROOT}/tables/control_effects.parquet",
        slopes=f"{ROOT}/tables/slopes.parquet",
        contrasts=f"{ROOT}/tables/contrasts.parquet",
    log:
        f"{ROOT}/logs/fits.log",
    benchmark:
        f"{ROOT}/benchmarks/fits.tsv"
    params:
        code=stage_digest("fits"),
        root=ROOT,
    script:
        "../scripts/fits.py"
