# Raw data to shards with a manifest, splits, and the order in which subsets are drawn. Everything lands in data/KEY.


localrules:
    passport,


rule molecules:
    input:
        lambda wildcards: SECTIONS[wildcards.key]["path"] or [],
    output:
        molecules=f"{DATA}/{{key}}/molecules.parquet",
        ledger=f"{DATA}/{{key}}/molecules.json",
    log:
        f"{ROOT}/logs/data/molecules-{{key}}.log",
    benchmark:
        f"{ROOT}/benchmarks/molecules-{{key}}.tsv"
    wildcard_constraints:
        key=of_kind("molecules"),
    priority: 10
    threads: lambda wildcards: WORKERS[wildcards.key]
    resources:
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards, attempt: 240 * attempt,
    params:
        section=lambda wildcards: SECTIONS[wildcards.key],
        code=stage_digest("molecules"),
    script:
        "../scripts/molecules.py"


rule tokenize:
    input:
        rules.molecules.output,
    output:
        tokenizer=f"{DATA}/{{key}}/tokenizer.json",
        shards=directory(f"{DATA}/{{key}}/shards"),
        manifest=f"{DATA}/{{key}}/manifest.json",
    log:
        f"{ROOT}/logs/data/tokenize-{{key}}.log",
    wildcard_constraints:
        key=of_kind("molecules"),
    priority: 10
    resources:
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards, attempt: 60 * attempt,
    params:
        section=lambda wildcards: SECTIONS[wildcards.key],
        code=stage_digest("tokenize"),
    script:
        "../scripts/tokenize.py"


rule frames:
    output:
        shards=directory(f"{DATA}/{{key}}/shards"),
        manifest=f"{DATA}/{{key}}/manifest.json",
    log:
        f"{ROOT}/logs/data/frames-{{key}}.log",
    benchmark:
        f"{ROOT}/benchmarks/frames-{{key}}.tsv"
    wildcard_constraints:
        key=of_kind("conformers", "trajectories"),
    priority: 10
    threads: lambda wildcards: WORKERS[wildcards.key]
    resources:
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards, attempt: 240 * attempt,
    params:
        section=lambda wildcards: SECTIONS[wildcards.key],
        code=stage_digest("frames"),
    script:
        "../scripts/frames.py"


rule subset:
    input:
        f"{DATA}/{{key}}/manifest.json",
    output:
        f"{DATA}/{{key}}/subsets/seed{{seed}}.parquet",
    log:
        f"{ROOT}/logs/data/subset-{{key}}-seed{{seed}}.log",
    priority: 10
    params:
        num_samples=lambda wildcards: LONGEST[wildcards.key, int(wildcards.seed)],
        code=stage_digest("subset"),
    script:
        "../scripts/subset.py"


rule passport:
    input:
        lambda wildcards: f"{STUDY.data_folder(wildcards.name)}/manifest.json",
    output:
        manifest=f"{ROOT}/data/{{name}}/manifest.json",
        rows=f"{ROOT}/data/{{name}}/rows.parquet",
    log:
        f"{ROOT}/logs/data/passport-{{name}}.log",
    params:
        code=stage_digest("passport"),
    script:
        "../scripts/passport.py"
