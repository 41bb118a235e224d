"""Certificates of authorities that a test makes, where `pki` is: a shell script's beginning."""

# What follows the `@` of every host's name in its certificate.
DOMAIN = "lab.example"

# key FILE; authority FILE: makes FILE.key, and FILE.pem; issue FILE HOST AUTHORITY: FILE.pem for FILE.key;
# list AUTHORITY [--reason REASON --cert FILE]...: AUTHORITY.crl, what it has revoked; give FILE ROOT AUTHORITY...:
# FILE's key and certificate, and what the authorities are known by, for the host whose files are below ROOT.
FUNCTIONS = f"""\
set -eu
umask 077
key() {{ pki --gen --type ecdsa --size 256 --outform pem > "$1.key"; }}
authority() {{ key "$1"; pki --self --ca --in "$1.key" --type ecdsa --dn "CN=$1" --outform pem > "$1.pem"; }}
issue() {{
    pki --issue --in "$1.key" --type ecdsa --cacert "$3.pem" --cakey "$3.key" --dn "CN=$2" --san "$2.{DOMAIN}" \\
        --outform pem > "$1.pem"
}}
list() {{ by=$1; shift; pki --signcrl --cacert $by.pem --cakey $by.key "$@" --outform pem > $by.crl; }}
give() {{
    of=$1 etc=$2/etc/swanctl; shift 2
    mkdir -p $etc/x509 $etc/x509ca $etc/x509crl $etc/private
    cp $of.key $etc/private/host.pem
    cp $of.pem $etc/x509/host.pem
    for by; do
        cp $by.pem $etc/x509ca/
        [ ! -e $by.crl ] || cp $by.crl $etc/x509crl/
    done
}}
"""
