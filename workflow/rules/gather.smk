# The records of all cells into tables, and laws from the tables.


localrules:
    study,
    plan,


rule study:
    input:
        inputs_of("study"),
    output:
        f"{ROOT}/config.json",
    params:
        study=STUDY.resolved(),
        root=ROOT,
    script:
        "../scripts/study.py"


rule plan:
    input:
        inputs_of("plan"),
    output:
        f"{ROOT}/tables/plan.parquet",
    log:
        f"{ROOT}/logs/plan.log",
    params:
        job=job_of("plan"),
        root=ROOT,
    script:
        "../scripts/plan.py"


rule gather:
    input:
        inputs_of("gather"),
    output:
        cells=f"{ROOT}/tables/cells.parquet",
        controls=f"{ROOT}/tables/controls.parquet",
        clusters=f"{ROOT}/tables/test_clusters.parquet",
        evaluation=f"{ROOT}/tables/evaluation.parquet",
    log:
        f"{ROOT}/logs/gather.log",
    params:
        job=job_of("gather"),
        root=ROOT,
    script:
        "../scripts/gather.py"


rule fits:
    input:
        inputs_of("fits"),
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
        job=job_of("fits"),
        root=ROOT,
    script:
        "../scripts/fits.py"
