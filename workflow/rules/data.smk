# Raw data to shards with a manifest, arrays for training, and the order in which subsets are drawn; all in data/KEY.
# A source is read in chunks, jobs of their own that leave sorted runs in data/KEY/work, which no rule declares: an
# interrupted job goes on after its last whole run. `assemble` makes one set of all runs.


# seconds each, and there may be many: as jobs of their own they would wait longer than they run
localrules:
    source,
    subset,


# where a published file lies, or has come to lie, checked: compute nodes may have no network
rule source:
    input:
        lambda wildcards: OWN_FILES[wildcards.key],
    output:
        f"{DATA}/{{key}}/source.json",
    log:
        f"{ROOT}/logs/data/source-{{key}}.log",
    wildcard_constraints:
        key=of_kind("molecules", "structures"),
    priority: 10
    params:
        section=lambda wildcards: SECTIONS[wildcards.key] | {"path": PATHS[wildcards.key]},
        downloads=STUDY.config.downloads.model_dump(),
        cache=f"{DATA}/sources",
        code=stage_digest("source"),
    script:
        "../scripts/source.py"


rule read:
    input:
        lambda wildcards: OWN_FILES[wildcards.key],
        source=f"{DATA}/{{key}}/source.json",
    output:
        temp(f"{DATA}/{{key}}/chunks/{{chunk}}of{{chunks}}.json"),
    log:
        f"{ROOT}/logs/data/read-{{key}}-{{chunk}}of{{chunks}}.log",
    benchmark:
        f"{ROOT}/benchmarks/read-{{key}}-{{chunk}}of{{chunks}}.tsv"
    wildcard_constraints:
        key=of_kind("molecules", "structures"),
    priority: 10
    threads: lambda wildcards: WORKERS[wildcards.key]
    resources:
        mem_mb=lambda wildcards, threads, attempt: (1000 + 500 * threads) * attempt,
        runtime=lambda wildcards, attempt: 240 * attempt,
    params:
        section=lambda wildcards: SECTIONS[wildcards.key],
        code=lambda wildcards: MAKER_CODE[wildcards.key],
    script:
        "../scripts/read.py"


rule simulate:
    input:
        lambda wildcards: OWN_FILES[wildcards.key],
    output:
        temp(f"{DATA}/{{key}}/chunks/{{chunk}}of{{chunks}}.json"),
    log:
        f"{ROOT}/logs/data/simulate-{{key}}-{{chunk}}of{{chunks}}.log",
    benchmark:
        f"{ROOT}/benchmarks/simulate-{{key}}-{{chunk}}of{{chunks}}.tsv"
    wildcard_constraints:
        key=of_kind("conformers", "trajectories"),
    priority: 10
    threads: lambda wildcards: WORKERS[wildcards.key]
    resources:
        mem_mb=lambda wildcards, threads, attempt: (1000 + 500 * threads) * attempt,
        runtime=lambda wildcards, attempt: 240 * attempt,
    params:
        section=lambda wildcards: SECTIONS[wildcards.key],
        code=lambda wildcards: MAKER_CODE[wildcards.key],
    script:
        "../scripts/simulate.py"


# the chunks' records go when the manifest stands: a change of code that reads or makes rows has to be seen here, too
rule assemble:
    input:
        lambda wildcards: [
            f"{DATA}/{wildcards.key}/chunks/{chunk}of{CHUNKS[wildcards.key]}.json"
            for chunk in range(CHUNKS[wildcards.key])
        ],
    output:
        f"{DATA}/{{key}}/manifest.json",
    log:
        f"{ROOT}/logs/data/assemble-{{key}}.log",
    benchmark:
        f"{ROOT}/benchmarks/assemble-{{key}}.tsv"
    priority: 10
    threads: lambda wildcards: WORKERS[wildcards.key]
    resources:
        mem_mb=lambda wildcards, threads, attempt: (1000 + 500 * threads) * attempt,
        runtime=lambda wildcards, attempt: 240 * attempt,
    params:
        section=lambda wildcards: SECTIONS[wildcards.key]
        | {"max_reject_share": FULL[wildcards.key]["max_reject_share"]},
        code=lambda wildcards: MAKER_CODE[wildcards.key] + stage_digest("assemble"),
    script:
        "../scripts/assemble.py"


rule arrays:
    input:
        f"{DATA}/{{key}}/manifest.json",
    output:
        f"{DATA}/{{key}}/arrays/arrays.json",
    log:
        f"{ROOT}/logs/data/arrays-{{key}}.log",
    priority: 10
    resources:
        mem_mb=lambda wildcards, attempt: 2000 * attempt,
        runtime=lambda wildcards, attempt: 60 * attempt,
    params:
        code=stage_digest("arrays"),
    script:
        "../scripts/arrays.py"


rule neighbours:
    input:
        f"{DATA}/{{key}}/arrays/arrays.json",
    output:
        f"{DATA}/{{key}}/neighbours/{{cutoff}}/arrays.json",
    log:
        f"{ROOT}/logs/data/neighbours-{{key}}-{{cutoff}}.log",
    priority: 10
    resources:
        mem_mb=lambda wildcards, attempt: 2000 * attempt,
        runtime=lambda wildcards, attempt: 60 * attempt,
    params:
        code=stage_digest("arrays"),
    script:
        "../scripts/neighbours.py"


rule subset:
    input:
        f"{DATA}/{{key}}/manifest.json",
    output:
        f"{DATA}/{{key}}/subsets/seed{{seed}}/n{{num_samples}}.parquet",
    log:
        f"{ROOT}/logs/data/subset-{{key}}-seed{{seed}}-n{{num_samples}}.log",
    priority: 10
    params:
        code=stage_digest("subset"),
    script:
        "../scripts/subset.py"


rule scaffolds:
    input:
        f"{DATA}/{{key}}/manifest.json",
    output:
        f"{DATA}/{{key}}/scaffolds/scaffolds.json",
    log:
        f"{ROOT}/logs/data/scaffolds-{{key}}.log",
    benchmark:
        f"{ROOT}/benchmarks/scaffolds-{{key}}.tsv"
    threads: lambda wildcards: WORKERS[wildcards.key]
    resources:
        mem_mb=lambda wildcards, threads, attempt: (1000 + 500 * threads) * attempt,
        runtime=lambda wildcards, attempt: 240 * attempt,
    params:
        code=stage_digest("scaffolds"),
    script:
        "../scripts/scaffolds.py"


rule passport:
    input:
        manifest=lambda wildcards: f"{STUDY.data_folder(wildcards.name)}/manifest.json",
        scaffolds=lambda wildcards: scaffolds_of(wildcards.name),
    output:
        manifest=f"{ROOT}/data/{{name}}/manifest.json",
        rows=f"{ROOT}/data/{{name}}/rows.parquet",
        passport=f"{ROOT}/data/{{name}}/passport.json",
    log:
        f"{ROOT}/logs/data/passport-{{name}}.log",
    wildcard_constraints:
        name=names_of("conformers", "trajectories", "structures"),
    resources:
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards, attempt: 120 * attempt,
    params:
        draws=lambda wildcards: DRAWS.get(wildcards.name, []),
        code=stage_digest("passport"),
    script:
        "../scripts/passport.py"


use rule passport as passport_of_molecules with:
    output:
        manifest=f"{ROOT}/data/{{name}}/manifest.json",
        rows=f"{ROOT}/data/{{name}}/rows.parquet",
        passport=f"{ROOT}/data/{{name}}/passport.json",
        vocabulary=f"{ROOT}/data/{{name}}/tokenizer.json",
        tokenizer=directory(f"{ROOT}/data/{{name}}/tokenizer"),
    wildcard_constraints:
        name=names_of("molecules"),
