"""Preprocessing: images -> one verified zarr store, in five stages.

    snakemake preprocess [--config imagenet=PATH store=PATH]

The output of a rule is the small manifest that its stage writes last. The store itself is no output:
Snakemake deletes the outputs of a failed job, and finished shards must stay.
"""

import sys
from pathlib import Path

from snakemake.utils import min_version

from preprocess.errors import UserError
from preprocess.settings import checked

min_version("9.0")


# by its place: the workflow may be started from another folder, to which paths are then relative
configfile: f"{workflow.basedir}/preprocess/config.yaml"


try:
    config.update(checked(config))
except UserError as error:
    sys.exit(f"error: {error}")

WORK = f"{config['store']}/.preprocess"

# the Python that runs Snakemake runs the stages too
shell.prefix(f"PATH='{Path(sys.executable).parent}':$PATH; ")


# runs where the command was typed, and prints its summary there, when the stages run elsewhere
localrules:
    preprocess,


# has no output, so that it always runs: it prints what the store holds, and finds missing shards
rule preprocess:
    input:
        f"{WORK}/verified.json",
        f"{WORK}/report.json",
    log:
        f"{WORK}/logs/store.log",
    params:
        store=subpath(input[0], ancestor=2),
    shell:
        "python -m preprocess.store --store {params.store:q} --log {log:q}"


rule index:
    output:
        f"{WORK}/index.json",
    log:
        f"{WORK}/logs/index.log",
    params:
        set=config,
        flags=" ".join(
            f"--{name.replace('_', '-')}"
            for name in ("verify_md5", "subset", "draft")
            if config[name]
        ),
    shell:
        "python -m preprocess.index --store {params.set[store]:q} --log {log:q}"
        " --imagenet {params.set[imagenet]:q} --seed {params.set[seed]}"
        " --split {params.set[split]} --classes={params.set[classes]:q}"
        " --image-size {params.set[image_size]} --shard-length {params.set[shard_length]}"
        " --validation-fraction {params.set[validation_fraction]}"
        " --train-per-class {params.set[train_per_class]}"
        " --validation-per-class {params.set[validation_per_class]}"
        " --on-error {params.set[on_error]} --orientation {params.set[orientation]} {params.flags}"


rule shards:
    input:
        f"{WORK}/index.json",
    output:
        f"{WORK}/shards.json",
    log:
        f"{WORK}/logs/shards.log",
    threads: workflow.cores
    params:
        set=config,
        workers=lambda wildcards, threads: config["dask_workers"] or threads,
        store=subpath(output[0], ancestor=2),
    shell:
        "python -m preprocess.shard --store {params.store:q} --log {log:q} --workers {params.workers}"
        " --on-error {params.set[on_error]} --dask {params.set[dask]}"
        " --dask-address={params.set[dask_address]:q}"


rule statistics:
    input:
        f"{WORK}/shards.json",
    output:
        f"{WORK}/statistics.json",
    log:
        f"{WORK}/logs/statistics.log",
    params:
        store=subpath(output[0], ancestor=2),
    shell:
        "python -m preprocess.statistics --store {params.store:q} --log {log:q}"


rule verify:
    input:
        f"{WORK}/statistics.json",
    output:
        f"{WORK}/verified.json",
    log:
        f"{WORK}/logs/verify.log",
    threads: workflow.cores
    params:
        store=subpath(output[0], ancestor=2),
    shell:
        "python -m preprocess.verify --store {params.store:q} --log {log:q} --workers {threads} --unread"


rule report:
    input:
        f"{WORK}/verified.json",
    output:
        f"{WORK}/report.json",
    log:
        f"{WORK}/logs/report.log",
    params:
        store=subpath(output[0], ancestor=2),
    shell:
        "python -m preprocess.report --store {params.store:q} --log {log:q}"
