#!/usr/bin/env bash
# Installs the Autobahn|Testsuite without Docker: setup.sh DIR leaves the command DIR/wstest.
# The suite runs on Python 2.7 only: one of pyenv's where there is one, else Debian bullseye's,
# unpacked into DIR and not installed. NO_PYENV=1 takes Debian's in any case.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1" && cd "$1" && dir=$PWD
stamp=$(sha256sum "$here/setup.sh" "$here/requirements.txt" | sha256sum)
if [ "$(cat stamp 2>/dev/null)" = "$stamp" ] && ./wstest -a >/dev/null 2>&1; then exit 0; fi
rm -rf stamp wstest venv tools debian

python=
if [ -z "${NO_PYENV:-}" ]; then
  for python in "${PYENV_ROOT:-$HOME/.pyenv}"/versions/2.7.*/bin/python2.7; do [ -x "$python" ] || python=; done
fi
libraries=
if [ -z "$python" ]; then
  echo 'Unpacking Python 2.7 from Debian bullseye'
  mkdir -p debian/{sources,lists/partial,cache/archives/partial,packages,root}
  mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Component: main' | grep -v security | head -n 1)
  keyring=/usr/share/keyrings/debian-archive-keyring.gpg
  printf 'Types: deb\nURIs: %s\nSuites: bullseye\nComponents: main\nSigned-By: %s\n' "$mirror" "$keyring" > debian/sources/bullseye.sources
  options=(
    -o Dir::Etc::SourceList=/dev/null -o "Dir::Etc::SourceParts=$dir/debian/sources"
    -o "Dir::State::Lists=$dir/debian/lists" -o Dir::State::Status=/dev/null
    -o "Dir::Cache=$dir/debian/cache" -o APT::Sandbox::User=root
  )
  apt-get "${options[@]}" -qq update
  (cd debian/packages && apt-get "${options[@]}" -qq download \
    python2.7 python2.7-minimal python2.7-dev libpython2.7 libpython2.7-minimal libpython2.7-stdlib libpython2.7-dev \
    libssl1.1 libffi7)
  for package in debian/packages/*.deb; do dpkg-deb -x "$package" debian/root; done
  python=$dir/debian/root/usr/bin/python2.7
  libraries=$dir/debian/root/usr/lib/$(gcc -print-multiarch)
  export LD_LIBRARY_PATH=$libraries
  export CPATH=$dir/debian/root/usr/include:$dir/debian/root/usr/include/python2.7
fi

echo "Installing the suite on $python"
# The last virtualenv that makes environments for Python 2.7.
python3 -m venv tools
tools/bin/pip install -q --disable-pip-version-check virtualenv==20.21.1
tools/bin/virtualenv -q -p "$python" venv
venv/bin/pip install -q --disable-pip-version-check --no-python-version-warning -r "$here/requirements.txt"
printf '#!/bin/sh\nLD_LIBRARY_PATH=%q exec %q "$@"\n' "$libraries" "$dir/venv/bin/wstest" > wstest
chmod +x wstest
./wstest -a
echo "$stamp" > stamp
