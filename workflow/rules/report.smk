# Tables and figures, the audit of the records, the page that prints its verdict, the seal, and the audit of everything.


localrules:
    data_table,
    seal,


rule data_table:
    input:
        rules.study.output,
        PASSPORTS,
    output:
        f"{ROOT}/tables/data.parquet",
        f"{ROOT}/tables/passport.parquet",
    log:
        f"{ROOT}/logs/data_table.log",
    params:
        code=stage_digest("tables"),
        root=ROOT,
    script:
        "../scripts/data_table.py"


rule figures:
    input:
        rules.study.output,
        rules.gather.output,
        rules.fits.output,
        PASSPORTS,
    output:
        directory(f"{ROOT}/figures"),
    log:
        f"{ROOT}/logs/figures.log",
    params:
        code=stage_digest("figures"),
        root=ROOT,
    script:
        "../scripts/figures.py"


rule audit_records:
    input:
        rules.study.output,
        rules.plan.output,
        rules.gather.output,
        rules.fits.output,
        rules.data_table.output,
        rules.data_table.input,
    output:
        f"{ROOT}/audit/records.json",
    log:
        f"{ROOT}/logs/audit_records.log",
    resources:
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards, attempt: 60 * attempt,
    params:
        code=stage_digest("audit"),
        root=ROOT,
    script:
        "../scripts/audit_records.py"


rule report:
    input:
        rules.audit_records.input,
        rules.audit_records.output,
        rules.figures.output,
    output:
        f"{ROOT}/report/index.html",
    log:
        f"{ROOT}/logs/report.log",
    params:
        code=stage_digest("report"),
        root=ROOT,
    script:
        "../scripts/report.py"


rule seal:
    input:
        rules.report.input,
        rules.report.output,
        expand(f"{ROOT}/{{cell}}/{{record}}", cell=KEPT, record=["config.json", "metrics.jsonl"]),
        expand(f"{ROOT}/{{cell}}/evaluation.json", cell=EVALUATED),
    output:
        f"{ROOT}/audit/SHA256SUMS",
    log:
        f"{ROOT}/logs/seal.log",
    resources:
        mem_mb=lambda wildcards, attempt: 2000 * attempt,
        runtime=lambda wildcards, attempt: 60 * attempt,
    params:
        code=stage_digest("audit"),
        root=ROOT,
    script:
        "../scripts/seal.py"


rule audit:
    input:
        rules.seal.output,
    output:
        f"{ROOT}/audit/audit.json",
    log:
        f"{ROOT}/logs/audit.log",
    resources:
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards, attempt: 60 * attempt,
    params:
        code=stage_digest("audit"),
        root=ROOT,
    script:
        "../scripts/audit.py"
