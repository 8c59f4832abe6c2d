#!/usr/bin/env bash
# Builds the sample images that are committed beside this script:
#
#   sample/            OCI index over three platforms        tags 1.0, latest
#   sample-docker/     the same as a Docker manifest list    tag  1.0
#   sample-nested/     an index that lists an index          tag  nested
#   sample-artifacts/  the index with SBOM and signature     tags 1.0, sha256-HEX.sig
#
# Usage: build-sample.sh [--output DIR] [--new-signature]
#
#   --output DIR      write there instead of beside the script (to compare)
#   --new-signature   sign with a fresh key even if the committed signature
#                     still fits
#
# Times, owners and file order are fixed, so a second run gives the same
# digests.  Needs umoci, skopeo, buildah, jq, openssl, GNU tar, Python 3.11+.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
output=$here
new_signature=no
while (($#)); do
  case $1 in
    --output) output=${2:?--output needs a folder}; shift 2 ;;
    --new-signature) new_signature=yes; shift ;;
    -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"; exit 0 ;;
    *) echo "build-sample.sh: unknown argument $1" >&2; exit 2 ;;
  esac
done

missing=()
for tool in umoci skopeo buildah jq openssl tar python3 sha256sum; do
  command -v "$tool" >/dev/null || missing+=("$tool")
done
if ((${#missing[@]})); then
  echo "build-sample.sh: please install: ${missing[*]}" >&2
  exit 1
fi

# Everything that could leak the machine or the moment into the bytes is fixed.
umask 022
export LC_ALL=C TZ=UTC
epoch=${SOURCE_DATE_EPOCH:-1767225600} # 2026-01-01T00:00:00Z
when=$(date -u -d "@$epoch" +%Y-%m-%dT%H:%M:%SZ)

mkdir -p "$output"
output=$(cd "$output" && pwd)
work=$(mktemp -d "${TMPDIR:-/tmp}/build-sample.XXXXXX")
trap 'rm -rf "$work"' EXIT

layout() { python3 "$here/layout.py" "$@"; }
# skopeo asks for a trust policy even for copies between two local folders.
copy() { skopeo --insecure-policy copy --quiet "$@"; }
# A store of its own: the user's containers and images are not touched.
build() { buildah --root "$work/store" --runroot "$work/run" --storage-driver vfs "$@"; }

# ---------------------------------------------------------------- the content

# A program without libraries for each architecture, so that the image can
# really be started: write(1, message), exit(0), as hand-written machine code.
write_program() { # ARCHITECTURE MESSAGE FILE
  python3 - "$@" <<'PYTHON'
import struct, sys
architecture, message, target = sys.argv[1:]
text = message.encode() + b"\n"
assert len(text) < 256
if architecture == "amd64":
    code = (b"\xb8\x01\0\0\0"                        # mov eax, 1 (write)
            b"\xbf\x01\0\0\0"                        # mov edi, 1
            b"\x48\x8d\x35\x10\0\0\0"                # lea rsi, [rip+16]
            + b"\xba" + struct.pack("<I", len(text)) # mov edx, length
            + b"\x0f\x05"                            # syscall
            b"\xb8\x3c\0\0\0\x31\xff\x0f\x05")       # exit(0)
    machine, flags, base = 62, 0, 0x400000
elif architecture == "arm64":
    code = struct.pack("<8I", 0xD2800808, 0xD2800020, 0x100000C1,
                       0xD2800002 | len(text) << 5, 0xD4000001,
                       0xD2800BA8, 0xD2800000, 0xD4000001)
    machine, flags, base = 183, 0, 0x400000
elif architecture == "arm":
    code = struct.pack("<8I", 0xE3A07004, 0xE3A00001, 0xE28F1010,
                       0xE3A02000 | len(text), 0xEF000000,
                       0xE3A07001, 0xE3A00000, 0xEF000000)
    machine, flags, base = 40, 0x05000000, 0x10000
else:
    sys.exit("no code for " + architecture)
if architecture == "arm":
    head, prog = 52, 32
    size = head + prog + len(code) + len(text)
    elf = b"\x7fELF\x01\x01\x01" + bytes(9) + struct.pack(
        "<HHIIIIIHHHHHH", 2, machine, 1, base + head + prog, head, 0, flags,
        head, prog, 1, 0, 0, 0)
    elf += struct.pack("<8I", 1, 0, base, base, size, size, 5, 0x10000)
else:
    head, prog = 64, 56
    size = head + prog + len(code) + len(text)
    elf = b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack(
        "<HHIQQQIHHHHHH", 2, machine, 1, base + head + prog, head, 0, flags,
        head, prog, 1, 0, 0, 0)
    elf += struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, size, size, 0x10000)
with open(target, "wb") as handle:
    handle.write(elf + code + text)
PYTHON
  chmod 755 "$3"
}

# A layer's tar, the same on each run.
write_tar() { # FOLDER FILE
  tar --create --file "$2" --directory "$1" --format=ustar --sort=name \
    --mtime="@$epoch" --owner=0 --group=0 --numeric-owner \
    --mode='u=rwX,go=rX' --transform='s,^\./,,' .
}

base=$work/content/base
mkdir -p "$base/etc/hello" "$base/usr/share/doc/hello"
cat >"$base/etc/hello/message.txt" <<'TEXT'
Hello! This file is part of the sample image of regmeta.
It is in the first layer, which all platforms share.
TEXT
cat >"$base/usr/share/doc/hello/LICENCE.txt" <<'TEXT'
The files in this sample image were written for the regmeta project as
examples.  You may copy, change and share them for any purpose, without
asking and without naming the source (CC0-1.0).  They come with no warranty.
TEXT
write_tar "$base" "$work/base.tar"

docs=$work/content/docs
mkdir -p "$docs/usr/share/doc/hello"
cat >"$docs/usr/share/doc/hello/README.txt" <<'TEXT'
hello prints one line and ends.  The line names the platform of the image.
hello.sh prints the same and the message file, if the system has a shell.
TEXT
write_tar "$docs" "$work/docs.tar"

# ----------------------------------------------------------------- the images

oci=$work/oci
umoci init --layout "$oci"

start_image() { # TAG ARCHITECTURE
  umoci new --image "$oci:$1"
  # umoci stores the present time and machine: replaced at once.
  umoci config --image "$oci:$1" --no-history --created "$when" --os linux \
    --architecture "$2" --author "regmeta examples"
}
add_layer() { # TAG TAR CREATED_BY
  umoci raw add-layer --image "$oci:$1" --history.created "$when" \
    --history.author "regmeta examples" --history.created_by "$3" \
    --history.comment "" "$2"
}
finish_image() { # TAG TITLE DESCRIPTION ENTRYPOINT
  local word words=()
  for word in "title=$2" "description=$3" "licenses=CC0-1.0" \
    "vendor=regmeta examples" "version=1.0" "created=$when" \
    "source=https://example.org/regmeta/hello" \
    "url=https://example.org/regmeta" \
    "documentation=https://example.org/regmeta/hello/README" \
    "authors=regmeta examples <examples@example.org>"; do
    words+=(--config.label "org.opencontainers.image.$word")
  done
  umoci config --image "$oci:$1" "${words[@]}" \
    --config.label "org.example.regmeta.sample=true" \
    --config.env "PATH=/usr/bin:/bin" --config.env "HELLO_VERSION=1.0" \
    --config.entrypoint "$4" --config.workingdir / --config.user 65534:65534 \
    --created "$when" --history.created "$when" \
    --history.author "regmeta examples" \
    --history.created_by "LABEL, ENV, USER, WORKDIR and ENTRYPOINT" \
    --history.comment "configuration only" \
    --manifest.annotation "org.opencontainers.image.title=$2" \
    --manifest.annotation "org.opencontainers.image.version=1.0" \
    --manifest.annotation "org.opencontainers.image.created=$when"
}

for platform in linux/amd64 linux/arm64/v8 linux/arm/v7; do
  IFS=/ read -r _ architecture variant <<<"$platform"
  content=$work/content/$architecture

  mkdir -p "$content.program/usr/bin" "$content.script/usr/bin" "$content.script/etc/hello"
  write_program "$architecture" "Hello from the regmeta sample image for $platform" \
    "$content.program/usr/bin/hello"
  write_tar "$content.program" "$content.program.tar"

  echo "$platform" >"$content.script/etc/hello/platform"
  cat >"$content.script/usr/bin/hello.sh" <<'SCRIPT'
#!/bin/sh
# The same greeting for systems that have a shell.
set -eu
echo "Hello from the regmeta sample image for $(cat /etc/hello/platform)"
cat /etc/hello/message.txt
SCRIPT
  chmod 755 "$content.script/usr/bin/hello.sh"
  write_tar "$content.script" "$content.script.tar"

  start_image "$architecture" "$architecture"
  add_layer "$architecture" "$work/base.tar" "ADD message and licence note in /"
  add_layer "$architecture" "$content.program.tar" "ADD hello for $platform in /usr/bin"
  add_layer "$architecture" "$content.script.tar" "ADD hello.sh and platform name in /"
  finish_image "$architecture" "hello" \
    "Small multi-platform sample image of regmeta" /usr/bin/hello
  # umoci has no option for the CPU variant.
  [[ -z $variant ]] || layout variant "$oci" "$architecture" "$variant"
done

# A single image for the nested sample: documentation, no program.
start_image docs amd64
add_layer docs "$work/base.tar" "ADD message and licence note in /"
add_layer docs "$work/docs.tar" "ADD documentation in /usr/share/doc/hello"
finish_image docs "hello-docs" "Documentation of the sample image" /usr/bin/hello

# The index.  buildah reads the platform of each from its config.
build manifest create hello >/dev/null
for architecture in amd64 arm64 arm; do
  build manifest add hello "oci:$oci:$architecture" >/dev/null
done
build manifest push --quiet --all --format oci hello "oci:$work/sample:1.0"

# Tag "latest": the containers library of this age moves a tag if the digest is
# in the layout already, so the second entry is written by our own glue.
index_digest=$(layout digest "$work/sample" 1.0)
layout link "$work/sample" "$index_digest" latest
layout normalise "$work/sample"

# --------------------------------------------------------- Docker's own format

copy --all --format v2s2 "oci:$work/sample:1.0" "dir:$work/docker-dir"
layout import-dir "$work/docker-dir" "$work/sample-docker" 1.0
layout normalise "$work/sample-docker"

# ------------------------------------------------------------- an index nested

nested=$work/sample-nested
layout init "$nested"
cp "$work"/sample/blobs/sha256/* "$nested/blobs/sha256/"
docs_digest=$(layout digest "$oci" docs)
cp "$oci"/blobs/sha256/* "$nested/blobs/sha256/" # normalise drops what is unused
size_of() { stat -c %s "$1/blobs/sha256/${2#sha256:}"; }
read -r nested_digest _ < <(jq -cnj --arg index "$index_digest" --arg docs "$docs_digest" \
  --argjson index_size "$(size_of "$nested" "$index_digest")" \
  --argjson docs_size "$(size_of "$nested" "$docs_digest")" --arg when "$when" '{
    schemaVersion: 2,
    mediaType: "application/vnd.oci.image.index.v1+json",
    manifests: [
      {mediaType: "application/vnd.oci.image.index.v1+json",
       digest: $index, size: $index_size,
       annotations: {"org.opencontainers.image.title": "hello"}},
      {mediaType: "application/vnd.oci.image.manifest.v1+json",
       digest: $docs, size: $docs_size,
       platform: {architecture: "amd64", os: "linux"},
       annotations: {"org.opencontainers.image.title": "hello-docs"}}],
    annotations: {
      "org.opencontainers.image.title": "hello with documentation",
      "org.opencontainers.image.created": $when}}' | layout put "$nested")
layout link "$nested" "$nested_digest" nested
layout normalise "$nested"

# --------------------------------------------------------- SBOM and signature

artifacts=$work/sample-artifacts
layout init "$artifacts"
cp "$work"/sample/blobs/sha256/* "$artifacts/blobs/sha256/"
layout link "$artifacts" "$index_digest" 1.0
index_size=$(size_of "$artifacts" "$index_digest")

# image-spec 1.1: a manifest without a config points to the two bytes "{}".
read -r empty_digest _ < <(printf '{}' | layout put "$artifacts")

# Writes a manifest that refers to the image ("subject") and lists it untagged.
put_referrer() { # ARTIFACT_TYPE LAYER_TYPE LAYER_DIGEST LAYER_ANNOTATIONS ANNOTATIONS
  local digest
  read -r digest _ < <(jq -cnj --arg type "$1" --arg layer_type "$2" --arg layer "$3" \
    --argjson layer_notes "$4" --argjson notes "$5" --arg empty "$empty_digest" \
    --argjson layer_size "$(size_of "$artifacts" "$3")" \
    --arg subject "$index_digest" --argjson subject_size "$index_size" '{
      schemaVersion: 2,
      mediaType: "application/vnd.oci.image.manifest.v1+json",
      artifactType: $type,
      config: {mediaType: "application/vnd.oci.empty.v1+json",
               digest: $empty, size: 2, data: "e30="},
      layers: [{mediaType: $layer_type, digest: $layer, size: $layer_size,
                annotations: $layer_notes}],
      subject: {mediaType: "application/vnd.oci.image.index.v1+json",
                digest: $subject, size: $subject_size},
      annotations: $notes}' | layout put "$artifacts")
  layout link "$artifacts" "$digest"
}

# The SBOM names each file of the image with its real checksums.
sbom_files() {
  local part file
  for part in base amd64.program amd64.script arm64.program arm64.script arm.program arm.script; do
    (cd "$work/content/$part" && find . -type f | sort) | while read -r file; do
      printf '%s\t%s\t%s\t%s\n' "$part" "$file" \
        "$(sha1sum <"$work/content/$part/$file" | cut -d' ' -f1)" \
        "$(sha256sum <"$work/content/$part/$file" | cut -d' ' -f1)"
    done
  done
}
read -r sbom_digest _ < <(sbom_files | jq -Rn --arg when "$when" \
  --arg index "${index_digest#sha256:}" '
  [inputs / "\t" | {part: .[0], name: .[1], sha1: .[2], sha256: .[3]}]
  | to_entries as $files | {
    spdxVersion: "SPDX-2.3", dataLicense: "CC0-1.0", SPDXID: "SPDXRef-DOCUMENT",
    name: "hello-1.0",
    documentNamespace: ("https://example.org/regmeta/spdx/hello-1.0-" + $index[:12]),
    creationInfo: {created: $when, creators: ["Organization: regmeta examples"]},
    packages: [{
      SPDXID: "SPDXRef-Package-hello", name: "hello", versionInfo: "1.0",
      supplier: "Organization: regmeta examples", downloadLocation: "NOASSERTION",
      filesAnalyzed: false, licenseConcluded: "CC0-1.0", licenseDeclared: "CC0-1.0",
      copyrightText: "NONE", primaryPackagePurpose: "CONTAINER",
      checksums: [{algorithm: "SHA256", checksumValue: $index}]}],
    files: [$files[] | {
      SPDXID: "SPDXRef-File-\(.key + 1)", fileName: .value.name,
      checksums: [{algorithm: "SHA1", checksumValue: .value.sha1},
                  {algorithm: "SHA256", checksumValue: .value.sha256}],
      licenseConcluded: "CC0-1.0", licenseInfoInFiles: ["NOASSERTION"],
      copyrightText: "NONE", comment: "layer content: \(.value.part)"}],
    relationships: (
      [{spdxElementId: "SPDXRef-DOCUMENT", relationshipType: "DESCRIBES",
        relatedSpdxElement: "SPDXRef-Package-hello"}]
      + [$files[] | {spdxElementId: "SPDXRef-Package-hello",
        relationshipType: "CONTAINS", relatedSpdxElement: "SPDXRef-File-\(.key + 1)"}])
  }' | layout put "$artifacts")
put_referrer application/spdx+json application/spdx+json "$sbom_digest" \
  '{"org.opencontainers.image.title":"hello-1.0.spdx.json"}' \
  "$(jq -cn --arg when "$when" '{"org.opencontainers.image.created": $when,
     "org.opencontainers.image.description": "SBOM of the sample image"}')"

# What is signed: the payload that cosign signs ("simple signing").
jq -cnj --arg digest "$index_digest" '{critical: {
    identity: {"docker-reference": "registry.example.org/regmeta/hello"},
    image: {"docker-manifest-digest": $digest},
    type: "cosign container image signature"},
  optional: null}' >"$work/payload.json"

# ECDSA signatures have a random part.  A committed one that still fits is kept,
# so that a second run changes nothing.
sig_tag=sha256-${index_digest#sha256:}.sig
signature='' key=$here/sample-artifacts.pub old=$here/sample-artifacts
verify() { # PUBLIC_KEY BASE64_SIGNATURE
  base64 -d <<<"$2" >"$work/signature" 2>/dev/null &&
    openssl dgst -sha256 -verify "$1" -signature "$work/signature" "$work/payload.json" >/dev/null 2>&1
}
if [[ $new_signature = no && -f $key && -f $old/index.json ]]; then
  if old_digest=$(layout digest "$old" "$sig_tag" 2>/dev/null); then
    signature=$(jq -r '.layers[0].annotations["dev.cosignproject.cosign/signature"]' \
      "$old/blobs/sha256/${old_digest#sha256:}")
    verify "$key" "$signature" || signature=''
  fi
fi
if [[ -n $signature ]]; then
  echo "signature: the committed one fits and is kept"
  cp "$key" "$work/sample-artifacts.pub"
else
  echo "signature: new, with a throw-away key"
  # The private key never leaves the temporary folder.
  openssl ecparam -name prime256v1 -genkey -noout -out "$work/private.pem"
  openssl ec -in "$work/private.pem" -pubout -out "$work/sample-artifacts.pub" 2>/dev/null
  signature=$(openssl dgst -sha256 -sign "$work/private.pem" "$work/payload.json" | base64 -w0)
  rm "$work/private.pem"
fi

read -r payload_digest payload_size < <(layout put "$artifacts" "$work/payload.json")
signature_notes=$(jq -cn --arg s "$signature" '{"dev.cosignproject.cosign/signature": $s}')
simple_signing=application/vnd.dev.cosign.simplesigning.v1+json

# First form: found by a tag that is made of the image's digest.
read -r config_digest config_size < <(jq -cnj --arg payload "$payload_digest" --arg when "$when" '{
  architecture: "", created: $when, history: [{created: $when}], os: "",
  rootfs: {type: "layers", diff_ids: [$payload]}, config: {}}' | layout put "$artifacts")
read -r sig_digest _ < <(jq -cnj --arg config "$config_digest" --argjson config_size "$config_size" \
  --arg payload "$payload_digest" --argjson payload_size "$payload_size" \
  --arg type "$simple_signing" --argjson notes "$signature_notes" '{
    schemaVersion: 2,
    mediaType: "application/vnd.oci.image.manifest.v1+json",
    config: {mediaType: "application/vnd.oci.image.config.v1+json",
             digest: $config, size: $config_size},
    layers: [{mediaType: $type, digest: $payload, size: $payload_size,
              annotations: $notes}]}' | layout put "$artifacts")
layout link "$artifacts" "$sig_digest" "$sig_tag"

# Second form: a referrer of image-spec 1.1.
put_referrer application/vnd.dev.cosign.artifact.sig.v1+json "$simple_signing" \
  "$payload_digest" "$signature_notes" \
  "$(jq -cn --arg when "$when" '{"org.opencontainers.image.created": $when}')"
layout normalise "$artifacts"

# ------------------------------------------------------------------ the checks

echo "checks:"
layout check "$work/sample" 1.0 latest
layout check "$work/sample-docker" 1.0
layout check "$work/sample-nested" nested
layout check "$work/sample-artifacts" 1.0 "$sig_tag"

# Another program must read the same bytes under the same digest.
same_in_skopeo() { # SOURCE DIGEST
  local got
  got=sha256:$(skopeo --insecure-policy inspect --raw "$1" | sha256sum | cut -d' ' -f1)
  if [[ $got != "$2" ]]; then
    echo "build-sample.sh: skopeo reads $got for $1, not $2" >&2
    exit 1
  fi
}
for pair in sample:1.0 sample:latest sample-nested:nested \
  sample-artifacts:1.0 "sample-artifacts:$sig_tag"; do
  same_in_skopeo "oci:$work/$pair" "$(layout digest "$work/${pair%%:*}" "${pair#*:}")"
done
# skopeo sees only OCI media types in a layout, so Docker's go back to "dir:".
layout export-dir "$work/sample-docker" 1.0 "$work/docker-again"
same_in_skopeo "dir:$work/docker-again" "$(layout digest "$work/sample-docker" 1.0)"
copy --all --preserve-digests "dir:$work/docker-again" "dir:$work/docker-copy"
copy --all --preserve-digests "oci:$work/sample:1.0" "oci:$work/sample-copy:1.0"
jq -e '[.manifests[].platform | [.os, .architecture, .variant // empty] | join("/")]
  == ["linux/amd64", "linux/arm64/v8", "linux/arm/v7"]' \
  "$work/sample/blobs/sha256/${index_digest#sha256:}" >/dev/null ||
  { echo "build-sample.sh: the index has not the three platforms" >&2; exit 1; }
verify "$work/sample-artifacts.pub" "$signature" ||
  { echo "build-sample.sh: the signature does not verify" >&2; exit 1; }
echo "  skopeo reads all tags; the signature verifies"

# Only a complete and checked result replaces what was there.
for name in sample sample-docker sample-nested sample-artifacts sample-artifacts.pub; do
  rm -rf "${output:?}/$name"
  cp -R "$work/$name" "$output/$name"
done
echo "total: $(cd "$output" && find sample sample-docker sample-nested sample-artifacts \
  sample-artifacts.pub -type f -printf '%s\n' | awk '{ s += $1 } END { print s }') bytes in $output"
