"""THIRD_PARTY.md: the packages in an environment, and their licences, by what each says of itself.

python tools/third_party.py PREFIX >THIRD_PARTY.md
"""

import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path

_HEAD = """# What the image ships

The image holds the packages of `deploy/requirements.txt`, beside Python and what its base brings. The text of
each licence stands there in `/app/lib/python3.*/site-packages/*.dist-info`. The wheel and the sdist hold this
project alone. `make sbom` makes this page, and the same for machines:
[deploy/sbom.cdx.json](deploy/sbom.cdx.json).

| package | version | licence |
| --- | --- | --- |
"""
_CLASSIFIER = "License :: OSI Approved :: "
_TEXTS = ("licen", "copying", "notice")


def licence_of(package: Distribution) -> str:
    """As an SPDX expression where the package has one. Raises ValueError where it says nothing."""
    metadata = package.metadata
    said = [
        *metadata.get_all("License-Expression", []),
        *(text for text in metadata.get_all("License", []) if "\n" not in text),
        *(
            name.removeprefix(_CLASSIFIER)
            for name in metadata.get_all("Classifier", [])
            if name.startswith(_CLASSIFIER)
        ),
    ]
    if not said:
        raise ValueError(f"{package.name} does not say its licence")
    return said[0]


def has_text(package: Distribution) -> bool:
    """Whether the text of its licence comes with it."""
    of_its_own = (file for file in package.files or () if ".dist-info" in str(file))
    return any(file.name.lower().startswith(_TEXTS) for file in of_its_own)


def rows(site: Path) -> Iterator[str]:
    for package in sorted(distributions(path=[str(site)]), key=lambda each: each.name.lower()):
        if not has_text(package):
            raise ValueError(f"{package.name} comes without the text of its licence")
        yield f"| {package.name} | {package.version} | {licence_of(package)} |\n"


def main(prefix: Path) -> None:
    (site,) = prefix.glob("lib/python3.*/site-packages")
    sys.stdout.write(_HEAD + "".join(rows(site)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
