# Raw data to shards with a manifest, splits, and the order in which subsets are drawn. Everything lands in data/KEY.


rule molecules:
    input:
        lambda wildcards: SECTIONS[wildcards.key]["path"] or [],
    output:
        molecules=f"{DATA}/{{key}}/molecules.parquet",
        ledger=f"{DATA}/{{key}}/molecules.json",
    log:
        f"{ROOT}/logs/data/{{key}}-molecules.log",
    benchmark:
        f"{ROOT}/benchmarks/{{key}}-molecules.tsv"
    wildcard_constraints:
        key=of_kind("molecules"),
    params:
        section=lambda wildcards: SECTIONS[wildcards.key],
        code=stage_digest("molecules"),
    priority: 10
    threads: lambda wildcards: SECTIONS[wildcards.key]["workers"]
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
        f"{ROOT}/logs/data/{{key}}-tokenize.log",
    wildcard_constraints:
        key=of_kind("molecules"),
    params:
        section=lambda wildcards: SECTIONS[wildcards.key],
        code=stage_digest("tokenize"),
    priority: 10
    script:
        "../scripts/tokenize.py"


rule frames:
    output:
        shards=directory(f"{DATA}/{{key}}/shards"),
        manifest=f"{DATA}/{{key}}/manifest.json",
    log:
        f"{ROOT}/logs/data/{{key}}-frames.log",
    benchmark:
        f"{ROOT}/benchmarks/{{key}}-frames.tsv"
    wildcard_constraints:
        key=of_kind("conformers", "trajectories"),
    params:
        section=lambda wildcards: SECTIONS[wildcards.key],
        code=stage_digest("frames"),
    priority: 10
    threads: lambda wildcards: SECTIONS[wildcards.key]["workers"]
    script:
        "../scripts/frames.py"


rule subset:
    input:
        f"{DATA}/{{key}}/manifest.json",
    output:
        f"{DATA}/{{key}}/subsets/seed{{seed}}.parquet",
    log:
        f"{ROOT}/logs/data/{{key}}-seed{{seed}}.log",
    params:
        num_samples=lambda wildcards: LONGEST[wildcards.key, int(wildcards.seed)],
        code=stage_digest("subset"),
    priority: 10
    script:
        "../scripts/subset.py"


rule passport:
    input:
        lambda wildcards: f"{STUDY.data_folder(wildcards.name)}/manifest.json",
    output:
        manifest=f"{ROOT}/data/{{name}}/manifest.json",
        rows=f"{ROOT}/data/{{name}}/rows.parquet",
    log:
        f"{ROOT}/logs/data/{{name}}-passport.log",
    params:
        code=stage_digest("passport"),
    script:
        "../scripts/passport.py"
