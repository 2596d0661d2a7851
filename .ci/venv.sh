# Sourced by notebooks/start and tests/run from the root of the repository.

venv=.venv

# Prints the name of the first Python that is new enough.
find_python() {
  local candidate
  for candidate in "${PYTHON:-python3}" python3.13 python3.12 python3.11 python; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "Python 3.11 or newer not found. Install it, or set PYTHON to its path." >&2
  return 1
}

# Hash of everything that determines the environment; pip runs again when it changes.
fingerprint() {
  "$venv/bin/python" - "$1" <<'PYTHON'
import hashlib, pathlib, sys
digest = hashlib.sha256(f"{sys.argv[1]} {sys.version} {pathlib.Path.cwd()}".encode())
for name in ("pyproject.toml", "binder/constraints.txt"):
    digest.update(pathlib.Path(name).read_bytes())
print(digest.hexdigest())
PYTHON
}

# install_extras NAME: installs the package with the extras NAME, editable, into .venv.
install_extras() {
  local stamp="$venv/.installed-$1" python
  if ! "$venv/bin/python" -c "" 2>/dev/null; then
    python=$(find_python) || return 1
    "$python" -m venv --clear "$venv" || return 1
  fi
  if [[ -f $stamp && $(<"$stamp") == "$(fingerprint "$1")" ]]; then
    return 0
  fi
  echo "Installing cka_notebook with extras '$1' into $venv (takes a few minutes the first time)"
  "$venv/bin/python" -m pip install --quiet --quiet --disable-pip-version-check \
    --constraint binder/constraints.txt --editable ".[$1]" || return 1
  fingerprint "$1" >"$stamp"
}
