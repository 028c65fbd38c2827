# Training, validation and test of a cell in one job. A pack trains many small cells in one process; its cells' own jobs
# then find the finished training in checkpoint/ and publish it. `checkpoint/` is declared by no rule: Snakemake deletes
# declared outputs between attempts, and a checkpoint has to outlive them.


rule train:
    input:
        inputs_of("train"),
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
            dict(the_job("train", wildcards).settings)
            | {"root": ROOT, "data_dir": DATA, "log_file": f"{ROOT}/logs/{wildcards.cell}.log"}
        ),
    # by `shell`: a `script` takes Snakemake along, where most cells only publish what their pack has trained
    shell:
        "{sys.executable} -m chemscale.training.launch {params.job:q}"


rule train_pack:
    input:
        lambda wildcards: sorted(
            {path for cell in cells_to_train(wildcards.pack) for path in JOBS.of("train", {"cell": cell.path}).inputs}
        ),
    output:
        pack_marker("{pack}"),
    log:
        f"{ROOT}/logs/packs/{{pack}}.log",
    threads: STUDY.config.threads
    resources:
        mem_mb=lambda wildcards, attempt: max(memory_mb(STUDY, cell) for cell in PACKS[wildcards.pack]) * attempt,
        runtime=lambda wildcards, attempt: 60 * attempt,
    params:
        cells=lambda wildcards: [cell.to_dict() for cell in cells_to_train(wildcards.pack)],
        codes=lambda wildcards: {
            cell.family: JOBS.of("train", {"cell": cell.path}).settings["code"]
            for cell in cells_to_train(wildcards.pack)
        },
        root=ROOT,
        data_dir=DATA,
    script:
        "../scripts/train_pack.py"
