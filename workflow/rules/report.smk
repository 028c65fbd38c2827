# Tables and figures, the audit of the records, the page that prints its verdict, the seal, and the audit of everything.


localrules:
    data_table,
    seal,


rule data_table:
    input:
        rules.study.output,
        expand(rules.passport.output, name=STUDY.config.data),
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
        expand(rules.passport.output.passport, name=STUDY.config.data),
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
    output:
        f"{ROOT}/audit/SHA256SUMS",
    log:
        f"{ROOT}/logs/seal.log",
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
    params:
        code=stage_digest("audit"),
        root=ROOT,
    script:
        "../scripts/audit.py"
