"""The fast SELFIES encoder against the library's, molecule by molecule."""

from __future__ import annotations

import pytest
import selfies
from rdkit import Chem, rdBase

from chemscale.data.selfies_encoder import encode
from chemscale.data.sources import chemicals


def canonical(smiles: str) -> str | None:
    with rdBase.BlockLogs():
        molecule = Chem.MolFromSmiles(smiles)
    return None if molecule is None else str(Chem.MolToSmiles(molecule))


def outcome(encoder: object, smiles: str) -> str:
    try:
        return str(encoder(smiles))  # type: ignore[operator]
    except selfies.EncoderError:
        return "EncoderError"


def test_every_seventh_compound_of_the_default_source_encodes_as_by_the_library() -> None:
    compounds = [canonical(smiles) for _, smiles in list(chemicals())[::7]]
    known = [smiles for smiles in compounds if smiles is not None]
    assert len(known) > 10_000
    stereo = [smiles for smiles in known if "@" in smiles or "/" in smiles]
    assert len(stereo) > 1_000
    for smiles in known:
        assert outcome(encode, smiles) == outcome(selfies.encoder, smiles), smiles


@pytest.mark.parametrize(
    "smiles",
    [
        "c1ccc2c(c1)[nH]c1ccccc12",
        "C[S+]([O-])c1cc[n+]([O-])cc1",
        "[2H]C([2H])[2H]",
        "F/C=C/F",
        "C1CC/C=C/CCC1",
        "C[C@]12CC[C@H]3[C@@H](CCc4cc(O)ccc43)[C@@H]1CC[C@@H]2O",
        "OC[C@H]1O[C@@H]1C",
        "c1cc2ccc3cccc4ccc(c1)c2c34",
        "C%10CCCCC%10",
        "CC(=O)[O-].[Na+]",
        "O=[N+]([O-])c1ccccc1",
        "C[n]1c2ccccc2[nH+]c1",
        "c1cc[se]c1",
        "[Fe+2]",
        "Cl[Pt](Cl)([NH3])[NH3]",
        "F[P-](F)(F)(F)(F)F",
        "C1=CC=CC=CC=C1",
        "c1ccc-2c(c1)-c1ccccc1-2",
        "C..C",
    ],
)
def test_awkward_molecules_encode_as_by_the_library(smiles: str) -> None:
    assert outcome(encode, smiles) == outcome(selfies.encoder, smiles)


@pytest.mark.parametrize("smiles", ["*C", "C(C)(C)(C)(C)C", "c1cccc1", "C(", "C)", "1C", "[Xx]", "", "C="])
def test_what_the_library_refuses_is_refused(smiles: str) -> None:
    with pytest.raises(selfies.EncoderError):
        selfies.encoder(smiles)
    with pytest.raises(selfies.EncoderError):
        encode(smiles)
