"""Train schnetpack's PaiNN with its own trainer at the settings of its rMD17 experiment, and print its test errors.

    python schnetpack_train.py FOLDER SEED STEPS

FOLDER holds train.xyz, validation.xyz and test.xyz. Batch, capacity, cutoff and number of steps are those of the
comparison; loss weights, optimiser, rate, schedule and running average are theirs (configs/experiment/rmd17.yaml and
the defaults that it builds on, schnetpack 2.2.0), units kcal/mol as there.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import schnetpack as spk
import torch
import torchmetrics
from ase.io import read
from schnetpack import transform as trn

KCAL_PER_EV = 23.060547830619  # per mol
CUTOFF, WIDTH, INTERACTIONS, RADIAL, BATCH = 5.0, 64, 3, 20, 10


def data_of(folder: Path, work: Path) -> spk.data.AtomsDataModule:
    """Their data module with the given splits."""
    frames, sizes = [], []
    for name in ("train", "validation", "test"):
        found = read(folder / f"{name}.xyz", ":")
        frames += found
        sizes.append(len(found))
    units = {"energy": "kcal/mol", "forces": "kcal/mol/Ang"}
    database = spk.data.ASEAtomsData.create(str(work / "data.db"), distance_unit="Ang", property_unit_dict=units)
    properties = [
        {
            "energy": np.array([frame.get_potential_energy() * KCAL_PER_EV]),
            "forces": frame.get_forces() * KCAL_PER_EV,
        }
        for frame in frames
    ]
    database.add_systems(properties, frames)
    ends = np.cumsum(sizes)
    train, validation, test = np.split(np.arange(ends[-1]), ends[:-1])
    np.savez(work / "split.npz", train_idx=train, val_idx=validation, test_idx=test)
    return spk.data.AtomsDataModule(
        str(work / "data.db"),
        batch_size=BATCH,
        val_batch_size=100,
        test_batch_size=100,
        num_train=sizes[0],
        num_val=sizes[1],
        num_test=sizes[2],
        split_file=str(work / "split.npz"),
        distance_unit="Ang",
        property_units=units,
        transforms=[
            trn.SubtractCenterOfMass(),
            trn.RemoveOffsets("energy", remove_mean=True, remove_atomrefs=False),
            trn.MatScipyNeighborList(cutoff=CUTOFF),
            trn.CastTo32(),
        ],
        num_workers=0,
        num_val_workers=0,
        num_test_workers=0,
        pin_memory=False,
    )


def task_of() -> spk.task.AtomisticTask:
    """Their model and loss."""
    potential = spk.model.NeuralNetworkPotential(
        representation=spk.representation.PaiNN(
            WIDTH,
            INTERACTIONS,
            spk.nn.GaussianRBF(n_rbf=RADIAL, cutoff=CUTOFF),
            spk.nn.CosineCutoff(CUTOFF),
        ),
        input_modules=[spk.atomistic.PairwiseDistances()],
        output_modules=[
            spk.atomistic.Atomwise(n_in=WIDTH, output_key="energy"),
            spk.atomistic.Forces(energy_key="energy", force_key="forces"),
        ],
        postprocessors=[trn.CastTo64(), trn.AddOffsets("energy", add_mean=True, add_atomrefs=False)],
    )

    def output(name: str, weight: float) -> Any:
        return spk.task.ModelOutput(
            name=name,
            loss_fn=torch.nn.MSELoss(),
            loss_weight=weight,
            metrics={"mae": torchmetrics.MeanAbsoluteError()},
        )

    return spk.task.AtomisticTask(
        model=potential,
        outputs=[output("energy", 0.01), output("forces", 0.99)],
        optimizer_cls=torch.optim.AdamW,
        optimizer_args={"lr": 1e-3, "weight_decay": 0.0},
        scheduler_cls=spk.train.ReduceLROnPlateau,
        scheduler_args={
            "mode": "min",
            "factor": 0.5,
            "patience": 75,
            "threshold": 0.0,
            "threshold_mode": "rel",
            "cooldown": 10,
            "min_lr": 0.0,
            "smoothing_factor": 0.0,
        },
        scheduler_monitor="val_loss",
    )


def main() -> None:
    folder, seed, steps = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    pl.seed_everything(seed, verbose=False)
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        data, task = data_of(folder, work), task_of()
        best = spk.train.ModelCheckpoint(model_path=str(work / "best"), monitor="val_loss", mode="min", dirpath=scratch)
        trainer = pl.Trainer(
            accelerator="cpu",
            devices=1,
            max_epochs=-1,
            max_steps=steps,
            callbacks=[best, spk.train.ExponentialMovingAverage(decay=0.995)],
            logger=False,
            num_sanity_val_steps=0,
            inference_mode=False,
            enable_progress_bar=False,
            default_root_dir=scratch,
        )
        trainer.fit(task, datamodule=data)
        # their checkpoint is a pickle: this process wrote it a moment ago
        (found,) = trainer.test(
            task, datamodule=data, ckpt_path=best.best_model_path, verbose=False, weights_only=False
        )
    meV = 1000 / KCAL_PER_EV  # noqa: N806
    print(json.dumps({"force_mae": found["test_forces_mae"] * meV, "energy_mae": found["test_energy_mae"] * meV}))


if __name__ == "__main__":
    main()
