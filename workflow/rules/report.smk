# Tables and figures, the audit of the records, the page that prints its verdict, the seal, and the audit of everything.


localrules:
    data_table,
    seal,


rule data_table:
    input:
        inputs_of("data_table"),
    output:
        f"{ROOT}/tables/data.parquet",
        f"{ROOT}/tables/passport.parquet",
    log:
        f"{ROOT}/logs/data_table.log",
    params:
        job=job_of("data_table"),
        root=ROOT,
    script:
        "../scripts/data_table.py"


rule figures:
    input:
        inputs_of("figures"),
    output:
        directory(f"{ROOT}/figures"),
    log:
        f"{ROOT}/logs/figures.log",
    params:
        job=job_of("figures"),
        root=ROOT,
    script:
        "../scripts/figures.py"


rule audit_records:
    input:
        inputs_of("audit_records"),
    output:
        f"{ROOT}/audit/records.json",
    log:
        f"{ROOT}/logs/audit_records.log",
    resources:
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards, attempt: 60 * attempt,
    params:
        job=job_of("audit_records"),
        root=ROOT,
    script:
        "../scripts/audit_records.py"


rule report:
    input:
        inputs_of("report"),
    output:
        f"{ROOT}/report/index.html",
    log:
        f"{ROOT}/logs/report.log",
    params:
        job=job_of("report"),
        root=ROOT,
    script:
        "../scripts/report.py"


rule seal:
    input:
        inputs_of("seal"),
    output:
        f"{ROOT}/audit/SHA256SUMS",
    log:
        f"{ROOT}/logs/seal.log",
    resources:
        mem_mb=lambda wildcards, attempt: 2000 * attempt,
        runtime=lambda wildcards, attempt: 60 * attempt,
    params:
        job=job_of("seal"),
        root=ROOT,
    script:
        "../scripts/seal.py"


rule audit:
    input:
        inputs_of("audit"),
    output:
        f"{ROOT}/audit/audit.json",
    log:
        f"{ROOT}/logs/audit.log",
    resources:
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards, attempt: 60 * attempt,
    params:
        job=job_of("audit"),
        root=ROOT,
    script:
        "../scripts/audit.py"
