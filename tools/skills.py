"""Skill banks as folders of SKILL.md, which coding agents read, and back: `python -m tools.skills FROM TO`.

    python -m tools.skills runs/webshop-tiny skills/       # a run's bank, or a skills.json, to folders
    python -m tools.skills skills/ bank.json               # and back; train.py and eval.py --bank take both as well

Folders that are there already keep what other people wrote into them, see SkillBank.save_folders.
"""

import argparse
from pathlib import Path

from lib.files import print_anything
from skillbank import SkillBank
from tools.flags import path_of
from tools.guard import checkpoint_of, guard


def main():
    parser = argparse.ArgumentParser(prog="tools.skills", description="A skill bank as folders of SKILL.md, and back.",
                                     allow_abbrev=False)
    parser.add_argument("source", metavar="FROM", type=path_of,
                        help="a run directory, a skills.json, or folders of SKILL.md files")
    parser.add_argument("target", metavar="TO", type=path_of,
                        help="a file that ends in .json, else a directory for the folders")
    args = parser.parse_args()
    print_anything()
    with guard("tools.skills", None, (ValueError, OSError)):
        checkpoint = checkpoint_of(args.source)
        bank = SkillBank.load(checkpoint / "skills.json" if checkpoint else args.source)
        if Path(args.target).suffix == ".json":
            bank.save(args.target)
        else:
            bank.save_folders(args.target)
        print(f"wrote {len(bank.skills())} skills to {args.target}")


if __name__ == "__main__":
    main()
