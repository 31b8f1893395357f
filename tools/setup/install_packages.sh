#!/bin/bash
# install_packages.sh [build|test|fuzz|lint]: installs the distribution packages that a target needs and
# are not here yet. Does nothing, and asks for no rights, when all are here. The one list of packages
# of the project: names are those of Debian 12 and Ubuntu 24.04.
set -euo pipefail
profile=${1:-build}

id=unknown version=unknown name="this system"
if [ -r /etc/os-release ]; then
  # shellcheck disable=SC1091
  . /etc/os-release
  id=${ID:-unknown} version=${VERSION_ID:-unknown} name=${PRETTY_NAME:-$id}
fi

# Boost's packages carry the version in their name; 1.81 is the oldest that has Boost.URL.
case "$id-$version" in
  debian-12) boost=1.81 ;;
  *) boost=1.83 ;;
esac

packages=(
  g++ cmake ninja-build pkg-config make
  "libboost$boost-dev" "libboost-json$boost-dev" "libboost-url$boost-dev"
  libssl-dev libcli11-dev libyaml-cpp-dev libspdlog-dev libfmt-dev prometheus-cpp-dev
  libpcre2-dev libutf8proc-dev
  libgtest-dev libgmock-dev libbenchmark-dev
  curl
)
case "$profile" in
  build) ;;
  test) packages+=(python3 python3-venv ca-certificates openssl) ;;
  fuzz) packages+=(clang-16 libclang-rt-16-dev llvm-16 python3) ;;
  lint) packages+=(python3 git clang-format-16 clang-tidy-16) ;;
  *)
    echo "install_packages.sh: expected build, test, fuzz or lint, got '$profile'" >&2
    exit 2
    ;;
esac

if ! command -v dpkg-query > /dev/null || ! command -v apt-get > /dev/null; then
  echo "$name has no apt-get; install the equivalents of these Debian 12 packages if the build misses any:" >&2
  echo "  ${packages[*]}" >&2
  exit 0
fi

missing=()
for package in "${packages[@]}"; do
  state=$(dpkg-query -W -f '${db:Status-Status}\n' "$package" 2> /dev/null || true)
  grep -qx installed <<< "$state" || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0

case "$id-$version" in
  debian-12 | ubuntu-24.04) ;;
  *) echo "note: package names are known for Debian 12 and Ubuntu 24.04; this is $name" >&2 ;;
esac

# sudo is used where it needs no password or can ask for one at a terminal.
as_root=()
if [ "$(id -u)" -ne 0 ]; then
  if command -v sudo > /dev/null && { sudo -n true 2> /dev/null || [ -t 0 ]; }; then
    as_root=(sudo)
  else
    echo "Sluice needs ${#missing[@]} packages that are not installed. Run this line as root, then the same make again:" >&2
    echo "apt-get update && apt-get install -y --no-install-recommends ${missing[*]}"
    exit 1
  fi
fi

echo "installing ${#missing[@]} packages: ${missing[*]}"
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get update -q
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}"
