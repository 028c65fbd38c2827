# Training, validation and test of a cell in one job. A pack trains many small cells in one process; its cells' own jobs
# then find the finished training in checkpoint/ and publish it. `checkpoint/` is declared by no rule: Snakemake deletes
# declared outputs between attempts, and a checkpoint has to outlive them.


rule train:
    input:
        lambda wildcards: cell_data([the_cell(wildcards)]),
    output:
        config=f"{ROOT}/{{cell}}/config.json",
        metrics=f"{ROOT}/{{cell}}/metrics.json",
        curve=f"{ROOT}/{{cell}}/metrics.jsonl",
        clusters=f"{ROOT}/{{cell}}/test_clusters.parquet",
        provenance=f"{ROOT}/{{cell}}/provenance.json",
    log:
        f"{ROOT}/logs/{{cell}}.log",
    threads: lambda wildcards: the_cell(wildcards).threads * the_cell(wildcards).engine["ranks"]
    resources:
        mem_mb=lambda wildcards, attempt: memory_mb(STUDY, the_cell(wildcards)) * attempt,
        runtime=lambda wildcards, attempt: 60 * attempt,
    params:
        job=lambda wildcards: json.dumps(
            {
                "cell": the_cell(wildcards).to_dict(),
                "root": ROOT,
                "data_dir": DATA,
                "code": CODE[the_cell(wildcards).family],
                "log_file": f"{ROOT}/logs/{wildcards.cell}.log",
            }
        ),
    # by `shell`: a `script` takes Snakemake along, where most cells only publish what their pack has trained
    shell:
        "{sys.executable} -m chemscale.training.launch {params.job:q}"


rule train_pack:
    input:
        lambda wildcards: cell_data(PACKS[wildcards.pack]),
    output:
        f"{ROOT}/logs/packs/{{pack}}.json",
    log:
        f"{ROOT}/logs/packs/{{pack}}.log",
    threads: STUDY.config.threads
    resources:
        mem_mb=lambda wildcards, attempt: max(memory_mb(STUDY, cell) for cell in PACKS[wildcards.pack]) * attempt,
        runtime=lambda wildcards, attempt: 60 * attempt,
    params:
        cells=lambda wildcards: [cell.to_dict() for cell in PACKS[wildcards.pack]],
        codes=lambda wildcards: {cell.family: CODE[cell.family] for cell in PACKS[wildcards.pack]},
        root=ROOT,
        data_dir=DATA,
    script:
        "../scripts/train_pack.py"
