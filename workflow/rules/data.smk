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
        inputs_of("source"),
    output:
        f"{DATA}/{{key}}/source.json",
    log:
        f"{ROOT}/logs/data/source-{{key}}.log",
    wildcard_constraints:
        key=of_kind("molecules", "structures"),
    priority: 10
    params:
        job=job_of("source"),
        path=lambda wildcards: SECTIONS[wildcards.key].get("path"),
        downloads=STUDY.config.downloads.model_dump(),
        cache=f"{DATA}/sources",
    script:
        "../scripts/source.py"


rule read:
    input:
        inputs_of("read"),
    output:
        temp(f"{DATA}/{{key}}/chunks/{{chunk}}of{{chunks}}.json"),
    log:
        f"{ROOT}/logs/data/read-{{key}}-{{chunk}}of{{chunks}}.log",
    benchmark:
        f"{ROOT}/benchmarks/read-{{key}}-{{chunk}}of{{chunks}}.tsv"
    wildcard_constraints:
        key=of_kind("molecules", "structures"),
    priority: 10
    threads: lambda wildcards: SECTIONS[wildcards.key]["workers"]
    resources:
        mem_mb=lambda wildcards, threads, attempt: (1000 + 500 * threads) * attempt,
        runtime=lambda wildcards, attempt: 240 * attempt,
    params:
        job=job_of("read"),
    script:
        "../scripts/read.py"


rule simulate:
    input:
        inputs_of("simulate"),
    output:
        temp(f"{DATA}/{{key}}/chunks/{{chunk}}of{{chunks}}.json"),
    log:
        f"{ROOT}/logs/data/simulate-{{key}}-{{chunk}}of{{chunks}}.log",
    benchmark:
        f"{ROOT}/benchmarks/simulate-{{key}}-{{chunk}}of{{chunks}}.tsv"
    wildcard_constraints:
        key=of_kind("conformers", "trajectories"),
    priority: 10
    threads: lambda wildcards: SECTIONS[wildcards.key]["workers"]
    resources:
        mem_mb=lambda wildcards, threads, attempt: (1000 + 500 * threads) * attempt,
        runtime=lambda wildcards, attempt: 240 * attempt,
    params:
        job=job_of("simulate"),
    script:
        "../scripts/simulate.py"


rule assemble:
    input:
        inputs_of("assemble"),
    output:
        f"{DATA}/{{key}}/manifest.json",
    log:
        f"{ROOT}/logs/data/assemble-{{key}}.log",
    benchmark:
        f"{ROOT}/benchmarks/assemble-{{key}}.tsv"
    priority: 10
    threads: lambda wildcards: SECTIONS[wildcards.key]["workers"]
    resources:
        mem_mb=lambda wildcards, threads, attempt: (1000 + 500 * threads) * attempt,
        runtime=lambda wildcards, attempt: 240 * attempt,
    params:
        job=job_of("assemble"),
    script:
        "../scripts/assemble.py"


rule arrays:
    input:
        inputs_of("arrays"),
    output:
        f"{DATA}/{{key}}/arrays/arrays.json",
    log:
        f"{ROOT}/logs/data/arrays-{{key}}.log",
    priority: 10
    resources:
        mem_mb=lambda wildcards, attempt: 2000 * attempt,
        runtime=lambda wildcards, attempt: 60 * attempt,
    params:
        job=job_of("arrays"),
    script:
        "../scripts/arrays.py"


rule neighbours:
    input:
        inputs_of("neighbours"),
    output:
        f"{DATA}/{{key}}/neighbours/{{cutoff}}/arrays.json",
    log:
        f"{ROOT}/logs/data/neighbours-{{key}}-{{cutoff}}.log",
    priority: 10
    resources:
        mem_mb=lambda wildcards, attempt: 2000 * attempt,
        runtime=lambda wildcards, attempt: 60 * attempt,
    params:
        job=job_of("neighbours"),
    script:
        "../scripts/neighbours.py"


rule subset:
    input:
        inputs_of("subset"),
    output:
        f"{DATA}/{{key}}/subsets/seed{{seed}}/n{{num_samples}}.parquet",
    log:
        f"{ROOT}/logs/data/subset-{{key}}-seed{{seed}}-n{{num_samples}}.log",
    priority: 10
    params:
        job=job_of("subset"),
    script:
        "../scripts/subset.py"


rule scaffolds:
    input:
        inputs_of("scaffolds"),
    output:
        f"{DATA}/{{key}}/scaffolds/scaffolds.json",
    log:
        f"{ROOT}/logs/data/scaffolds-{{key}}.log",
    benchmark:
        f"{ROOT}/benchmarks/scaffolds-{{key}}.tsv"
    threads: lambda wildcards: SECTIONS[wildcards.key]["workers"]
    resources:
        mem_mb=lambda wildcards, threads, attempt: (1000 + 500 * threads) * attempt,
        runtime=lambda wildcards, attempt: 240 * attempt,
    params:
        job=job_of("scaffolds"),
    script:
        "../scripts/scaffolds.py"


rule passport:
    input:
        inputs_of("passport"),
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
        job=job_of("passport"),
    script:
        "../scripts/passport.py"


use rule passport as passport_of_molecules with:
    input:
        inputs_of("passport_of_molecules"),
    output:
        manifest=f"{ROOT}/data/{{name}}/manifest.json",
        rows=f"{ROOT}/data/{{name}}/rows.parquet",
        passport=f"{ROOT}/data/{{name}}/passport.json",
        vocabulary=f"{ROOT}/data/{{name}}/tokenizer.json",
        tokenizer=directory(f"{ROOT}/data/{{name}}/tokenizer"),
    wildcard_constraints:
        name=names_of("molecules"),
    params:
        job=job_of("passport_of_molecules"),
