#!/usr/bin/env python3
"""Makes models/texts/calibration.txt and models/texts/evaluation.txt from two Debian packages.

    scripts/make_texts.py [--out models/texts] [--more [--packages FOLDER]]

calibration  debian-reference-en (GPL-2+), from line 4001 on
evaluation   jargon-text (public domain), from line 12001 on: the glossary's head is far less like prose than the rest
--more makes two texts that nothing was tuned on (scripts/check_quality.py) instead, past their tables of contents:
developers-reference  the package of that name (GPL-2+), from line 1001 on
debian-policy         the package of that name (GPL-2+), from line 1001 on
Their packages need not be installed: FOLDER is where somebody unpacked them (apt-get download, dpkg-deb -x).

Standard library only. Packages move on, so another hash than the known one is said and written down, and is no error:
models/texts/texts.json holds what was really made, and every record names the hash of the text it used.
"""

import argparse
import gzip
import hashlib
import json
import os
import sys
from pathlib import Path

TEXTS = {
    "calibration.txt": {
        "package": "debian-reference-en",
        "source": "/usr/share/debian-reference/debian-reference.en.txt.gz",
        "first_line": 4001,
        "sha256": "7121963fbc7dce83db2881d492f69ebf6d6811b6433a75831249a76f6f871f7d",
    },
    "evaluation.txt": {
        "package": "jargon-text",
        "source": "/usr/share/doc/jargon-text/jargon.txt.gz",
        "first_line": 12001,
        "sha256": "6973db26ccb0e0172de0262ff19edf9b3bfc236161092079be2ec847ecacd3e5",
    },
}

MORE_TEXTS = {
    "developers-reference.txt": {
        "package": "developers-reference",
        "source": "/usr/share/developers-reference/developers-reference.txt.gz",
        "first_line": 1001,
        "sha256": "f4e2c8ac7df9bdcb681184b6c0fe75fd61b9a73bba127e82cb669f6613650e4f",
    },
    "debian-policy.txt": {
        "package": "debian-policy",
        "source": "/usr/share/doc/debian-policy/policy.txt.gz",
        "first_line": 1001,
        "sha256": "a350cf89d74690105e03718313bd59887ca0085dcbeea8abf3e9f068a1720a08",
    },
}


def write_if_changed(path: Path, content: bytes) -> bool:
    if path.is_file() and path.read_bytes() == content:
        return False
    unfinished = path.with_name(path.name + ".tmp")
    unfinished.write_bytes(content)
    os.replace(unfinished, path)
    return True


def main():
    root = Path(__file__).resolve().parent.parent
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=root / "models" / "texts")
    parser.add_argument("--more", action="store_true", help="the two texts that nothing was tuned on instead")
    parser.add_argument("--packages", type=Path, default=root / "third_party" / "extracted",
                        help="where packages are unpacked that are not installed")
    options = parser.parse_args()
    out = options.out
    out.mkdir(parents=True, exist_ok=True)

    made = {}
    for name, text in (MORE_TEXTS if options.more else TEXTS).items():
        source = Path(text["source"])
        if not source.is_file():  # scripts/setup.sh unpacks here what an image left out
            source = options.packages / text["source"].lstrip("/")
        if not source.is_file():
            todo = ("apt-get download it, unpack it with dpkg-deb -x and give the folder as --packages" if options.more
                    else "'make setup' installs it")
            sys.exit(f"make_texts: {text['source']} of the package {text['package']} is not there; {todo}")
        lines = gzip.decompress(source.read_bytes()).splitlines(keepends=True)
        content = b"".join(lines[text["first_line"] - 1:])
        digest = hashlib.sha256(content).hexdigest()
        made[name] = {"package": text["package"], "first_line": text["first_line"], "bytes": len(content),
                      "sha256": digest}
        written = write_if_changed(out / name, content)
        print(f"make_texts: {out / name} {'written' if written else 'is as it should be'}, {len(content):,} bytes")
        if digest != text["sha256"]:
            print(f"make_texts: warning: {name} has sha256 {digest[:12]}, known is {text['sha256'][:12]}: another version "
                  f"of {text['package']}, so figures measured on it differ from the published ones")
    write_if_changed(out / ("more-texts.json" if options.more else "texts.json"), (json.dumps(made, indent=2) + "\n").encode())


if __name__ == "__main__":
    main()
