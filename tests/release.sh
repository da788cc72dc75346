#!/usr/bin/env bash
# Build dist/*.tar.gz, and dist/*.whl from it, and try the wheel in an environment of its own. `make release`
# calls it.
set -euo pipefail
cd "$(dirname "$0")/.."

die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

version=$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml)
grep -q "^## \[$version\] - " CHANGELOG.md || die "CHANGELOG.md has no section [$version]"
[[ -z $(git status --porcelain) ]] || die "the working tree has changes that are not committed"

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
constraints=$folder/constraints.txt
sed '/^torch==/s/+.*//' .venv/constraints.txt >"$constraints" # 2.13.0+cpu is not on PyPI
python -m venv "$folder/venv"
export PATH=$folder/venv/bin:$PATH PIP_CONSTRAINT=$constraints PIP_BUILD_CONSTRAINT=$constraints
python -m pip install --quiet --upgrade pip
python -m pip install --quiet build mpich

rm -rf dist
python -m build >"$folder/log" 2>&1 || { cat "$folder/log" && die "the build failed"; }
# Without a C file or a header, the wheel is built without that extension.
missing=$(comm -23 <(git ls-files preprocess trainer | sort) \
    <(tar -tf dist/*.tar.gz | cut -d/ -f2- | sort))
[[ -z $missing ]] || die "the source distribution lacks $missing"
missing=$(comm -23 <(git ls-files preprocess trainer | grep -v '\.c$' | sort) \
    <(python -m zipfile -l dist/*.whl | awk '{print $1}' | sort))
[[ -z $missing ]] || die "the wheel lacks $missing"
compiled=$(python -m zipfile -l dist/*.whl | grep -c '\.so ')
sources=$(git ls-files preprocess trainer | grep -c '\.c$')
((compiled == sources)) || die "$compiled of $sources extensions were compiled: $(grep -i error "$folder/log")"

python -m pip install --quiet dist/*.whl
cd "$folder" # not the clone, whose packages would be imported instead
python -m trainer.doctor
echo "dist/ has version $version"
