# What finished cells are good for beyond their loss: molecules drawn from them, a probe of their vectors; and dynamics.
# Only cells that the config names under `evaluate:`; what all of them share is computed once, in data/KEY.


# HOMO-LUMO gap and dipole moment of molecules of the test split, by GFN2-xTB
rule properties:
    input:
        inputs_of("properties"),
    output:
        manifest=f"{DATA}/{{key}}/properties/{{probe}}/manifest.json",
        table=f"{DATA}/{{key}}/properties/{{probe}}/properties.parquet",
    log:
        f"{ROOT}/logs/data/properties-{{key}}-{{probe}}.log",
    benchmark:
        f"{ROOT}/benchmarks/properties-{{key}}-{{probe}}.tsv"
    threads: lambda wildcards: SECTIONS[wildcards.key]["workers"]
    resources:
        mem_mb=lambda wildcards, threads, attempt: (1000 + 500 * threads) * attempt,
        runtime=lambda wildcards, attempt: 240 * attempt,
    params:
        job=job_of("properties"),
    script:
        "../scripts/properties.py"


# validation molecules, and training molecules in the place of a perfect model's
rule reference:
    input:
        inputs_of("reference"),
    output:
        f"{DATA}/{{key}}/reference/seed{{seed}}/n{{num}}.parquet",
    log:
        f"{ROOT}/logs/data/reference-{{key}}-seed{{seed}}-n{{num}}.log",
    benchmark:
        f"{ROOT}/benchmarks/reference-{{key}}-seed{{seed}}-n{{num}}.tsv"
    resources:
        mem_mb=lambda wildcards, attempt: 2000 * attempt,
        runtime=lambda wildcards, attempt: 60 * attempt,
    params:
        job=job_of("reference"),
    script:
        "../scripts/reference.py"


rule evaluate:
    input:
        inputs_of("evaluate"),
    output:
        record=f"{ROOT}/{{cell}}/evaluation.json",
        speed=f"{ROOT}/{{cell}}/evaluation_speed.json",
    log:
        f"{ROOT}/logs/evaluate/{{cell}}.log",
    benchmark:
        f"{ROOT}/benchmarks/evaluate/{{cell}}.tsv"
    wildcard_constraints:
        cell="|".join(EVALUATED) or "(?!)",
    threads: lambda wildcards: the_cell(wildcards).threads
    resources:
        mem_mb=lambda wildcards, attempt: 2000 * attempt,
        runtime=lambda wildcards, attempt: 60 * attempt,
    params:
        job=job_of("evaluate"),
        domain=lambda wildcards: the_cell(wildcards).domain,
        data_dir=DATA,
    script:
        "../scripts/evaluate.py"
