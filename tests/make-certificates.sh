#!/usr/bin/env bash
# Makes a certificate authority and a server certificate for 127.0.0.1 and localhost: make-certificates.sh DIR
# Leaves ca.pem, server.pem and server.key in DIR; does nothing when they are there and still good for a day.
set -euo pipefail
mkdir -p "$1" && cd "$1"
if [ -s server.pem ] && openssl x509 -in server.pem -noout -checkend 86400 >/dev/null 2>&1; then exit 0; fi
ec=(-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes)
openssl req -x509 "${ec[@]}" -days 30 -subj '/CN=Sockeye test authority' \
  -addext 'basicConstraints=critical,CA:TRUE' -addext 'keyUsage=critical,keyCertSign,cRLSign' \
  -keyout ca.key -out ca.pem 2>/dev/null
openssl req "${ec[@]}" -subj '/CN=localhost' -keyout server.key -out server.csr 2>/dev/null
cat > server.ext <<'X'
basicConstraints=critical,CA:FALSE
keyUsage=critical,digitalSignature
extendedKeyUsage=serverAuth
subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1
X
openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 \
  -extfile server.ext -out server.pem 2>/dev/null
