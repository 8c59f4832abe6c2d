# Programs come from the virtual environment that `just` itself is installed in; else the active one; else .venv.
own := parent_directory(parent_directory(just_executable()))
venv := if path_exists(own / "pyvenv.cfg") == "true" { own } else { env("VIRTUAL_ENV", justfile_directory() / ".venv") }

set positional-arguments

export PATH := venv / "bin:" + env("PATH")

# show this list
default:
    @just --justfile {{ quote(justfile()) }} --list --unsorted

# make the virtual environment and install all that work on regmeta needs
setup:
    test -x {{ quote(venv / "bin/python3") }} || python3 -m venv {{ quote(venv) }}
    {{ quote(venv / "bin/pip") }} install -e '.[dev]'

# check style, types and the direction of imports
lint:
    ruff check
    ruff format --check
    mypy
    lint-imports

# put the code into the house's format
format:
    ruff check --fix
    ruff format

# run the fast tests: what needs no server and no other programs; more arguments go to pytest
test *arguments:
    pytest -n 3 --dist worksteal --in-memory -m "not slow and not soak and not long and not docs" "$@"

# run the tests on PostgreSQL and S3, with other programs, and those that take seconds
slow *arguments:
    pytest -n 3 --dist worksteal --in-memory -m "slow and not soak and not long and not docs" "$@"

# run every test but those that wait for a release
test-all: test slow docs soak

# kill processes, cut the power, break disks and databases at every step, and print the table of it
crash *arguments:
    python3 -m tests.crash.harness "$@"

# work together with skopeo, umoci and buildah
interop *arguments:
    pytest -n 2 -m "interop and not soak and not long" "$@"

# run the commands that README and docs show
docs *arguments:
    pytest -n 2 --dist worksteal -m docs "$@"

# run the long tests
soak *arguments:
    pytest -n 2 --durations 20 -m "soak and not long" "$@"

# run the tests that take an hour, before a release
long *arguments:
    pytest -m long "$@"

# measure; benchmarks/README.md says what and against which targets
bench work="bench-work":
    mkdir -p {{ quote(work) }}
    python3 -m benchmarks.startup --rounds 15 --work {{ quote(work) }}
    python3 -m benchmarks.import_layout --set S --set M --rounds 3 --work {{ quote(work) }}

# remove what tests, checks and builds leave behind; not the virtual environment
clean:
    rm -rf build dist bench-work .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
    find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
