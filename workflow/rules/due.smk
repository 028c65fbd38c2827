# What is due is decided by chemscale/planning/due.py, as for `chemscale status`, and forced upon Snakemake. Its own
# reasons (the times of files, what it remembers in .snakemake) count for nothing: a job that is not due has no inputs.


def named_jobs(names):
    """The study's jobs that the command line names by rule or by file; what is no job's, Snakemake answers itself."""
    jobs = []
    for name in names:
        if name == "all":
            jobs.append(JOBS.last)
        elif name == "packs":
            jobs += JOBS.training
        elif name in MARKERS:
            jobs += [JOBS.of("train", {"cell": cell.path}) for cell in MARKERS[name]]
        else:
            of_rule = [job for job in JOBS if job.rule == name]
            of_file = JOBS.writer(name) or JOBS.writer(os.path.normpath(name))
            jobs += of_rule or ([of_file] if of_file else [])
    return jobs


@cache
def verdicts():
    """The verdict on each job that this run may need, by its name; none where this process runs a single job.

    Snakemake's graph takes them over at the first question: they are asked for by the first input of the first job.
    """
    settings = workflow.dag_settings
    if not workflow.is_main_process:
        return {}
    targets = set(settings.targets or ["all"])
    forced = JOBS if settings.forceall else named_jobs(settings.forcerun)
    forced = [*forced, *(named_jobs(targets - {"all"}) if settings.forcetargets else [])]
    judged = judge(JOBS, named_jobs(targets), forced)
    settings.rerun_triggers = frozenset()
    # every write is whole or absent, and a job's record comes last: what was killed is due by its record
    workflow.dag.ignore_incomplete = True
    by_pack = "packs" in targets or not targets.isdisjoint(MARKERS)
    for job in JOBS:
        if job.name in judged and judged[job.name].due and not (by_pack and job.rule == "train"):
            # a temporary file that is missing is made for those that read it, and deleted again
            if not job.temporary or os.path.exists(job.outputs[0]):
                workflow.dag.forcefiles.update(job.outputs)
    workflow.dag.forcefiles.update(due_packs(judged) if by_pack else [])
    again = retraining(JOBS, judged)
    if workflow.dryrun and again.cells:
        print(f"chemscale: {again}", file=sys.stderr)
    return judged


def due_packs(judged):
    """The markers of the packs that a cell which is due has to be trained in."""
    paths = {cell.path for cell in untrained(JOBS, judged)}
    return [pack_marker(pack) for pack, cells in PACKS.items() if any(cell.path in paths for cell in cells)]


@cache
def paths_to_train():
    """The paths of the cells that are due and not trained yet."""
    return {cell.path for cell in untrained(JOBS, verdicts())}


@cache
def cells_to_train(pack):
    """The cells of a pack that it has to train: the others are done, and what they read of their data may be gone."""
    if workflow.is_main_process:
        paths = paths_to_train()
    else:
        jobs = [JOBS.of("train", {"cell": cell.path}) for cell in PACKS[pack]]
        paths = {cell.path for cell in untrained(JOBS, judge(JOBS, jobs))}
    return [cell for cell in PACKS[pack] if cell.path in paths]


def due_files():
    """The last files of the study, and all files that are due: a deleted one that nothing reads now, too."""
    due = [job for job in JOBS if job.name in verdicts() and verdicts()[job.name].due and not job.temporary]
    return [path for job in [JOBS.last, *due] for path in job.outputs]


def inputs_of(rule):
    """The inputs of a rule's jobs; none of a job that is not due, so that it waits for nothing and nothing reruns it."""

    def inputs(wildcards):
        job = the_job(rule, wildcards)
        verdict = verdicts().get(job.name)
        return list(job.inputs) if verdict is None or verdict.due else []

    return inputs


def cells_to_run():
    """The paths of the cells that this run trains: with --until or --omit-from not all that are due."""
    paths = set()
    for job in workflow.dag.needrun_jobs():
        if job.rule.name == "train":
            paths.add(job.wildcards.cell)
        elif job.rule.name == "train_pack":
            paths |= {cell.path for cell in cells_to_train(job.wildcards.pack)}
    return paths


# not before Snakemake has decided to run: neither a dry run nor a job of its own comes here
onstart:
    if not workflow.touch:
        running = {JOBS.of("train", {"cell": path}).name for path in cells_to_run()}
        again = retraining(JOBS, {name: verdict for name, verdict in verdicts().items() if name in running})
        try:
            confirm(again, STUDY.path)
        except ConfigError as error:
            refuse(error)
        set_aside(STUDY.root, again)
