#!/usr/bin/env bash
# Makes real images from Debian packages, on this machine, in DEST/real (an OCI
# image layout).  Nothing of it is meant to be committed.
#
#   tag busybox   index over linux/amd64, linux/arm64/v8 and linux/arm/v7, from
#                 the package busybox-static
#   tag debian    Debian 12 base system of this machine's architecture, made
#                 with debootstrap (needs root, and some minutes)
#
# Usage: build-real-images.sh [--busybox-only] DEST
#
# The mirror is the one in this machine's apt sources; DEBIAN_MIRROR=URL sets
# another.  The machine's own apt and dpkg state is read, never changed.  What
# DEST/real already has is kept, so a second run has nothing to do.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
suite=bookworm
busybox_only=no
dest=

die() { echo "build-real-images.sh: $*" >&2; exit 1; }

while (($#)); do
  case $1 in
    --busybox-only) busybox_only=yes; shift ;;
    -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"; exit 0 ;;
    -*) die "unknown option $1 (see --help)" ;;
    *) [[ -z $dest ]] || die "only one DEST, please"; dest=$1; shift ;;
  esac
done
[[ -n $dest ]] || die "usage: build-real-images.sh [--busybox-only] DEST"

layout() { python3 "$here/layout.py" "$@"; }

wanted=(busybox)
[[ $busybox_only = yes ]] || wanted+=(debian)

command -v python3 >/dev/null || die "please install: python3 (3.11 or newer)"
mkdir -p "$dest"
dest=$(cd "$dest" && pwd)
real=$dest/real

# A layout that fails its check is built anew; one that passes is kept.
todo=()
if [[ -e $real ]]; then
  if layout check "$real" >/dev/null 2>&1; then
    for tag in "${wanted[@]}"; do
      layout digest "$real" "$tag" >/dev/null 2>&1 || todo+=("$tag")
    done
  else
    echo "$real is damaged or incomplete: building it anew"
    todo=("${wanted[@]}")
    rm -rf "$real"
  fi
else
  todo=("${wanted[@]}")
fi
if ((${#todo[@]} == 0)); then
  echo "$real is complete, nothing to do:"
  layout check "$real" "${wanted[@]}"
  exit 0
fi

# ------------------------------------------------------------ what is needed

declare -A package=([umoci]=umoci [skopeo]=skopeo [buildah]=buildah [tar]=tar
  [apt-get]=apt [dpkg-deb]=dpkg [dpkg]=dpkg)
if [[ " ${todo[*]} " = *" debian "* ]]; then
  package[debootstrap]=debootstrap
  package[chroot]=coreutils
  ((EUID == 0)) || die "the debian image needs root (debootstrap, chroot); or use --busybox-only"
  # A user's PATH often lacks the folder of debootstrap.
  PATH=$PATH:/usr/sbin:/sbin
fi
missing=()
for tool in "${!package[@]}"; do
  command -v "$tool" >/dev/null || missing+=("${package[$tool]}")
done
((${#missing[@]} == 0)) || die "please install: ${missing[*]}"
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
[[ -f $keyring ]] || die "please install: debian-archive-keyring"

# apt itself parses its sources, in both of their formats.
mirror=${DEBIAN_MIRROR:-}
if [[ -z $mirror ]]; then
  # shellcheck disable=SC2016 # the $(...) are fields for apt, not for the shell
  mirror=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' \
    'Created-By: Packages' | awk -v suite=$suite '
      $3 != "main" || $1 !~ /\/debian\/?$/ { next }
      $2 == suite { print $1; found = 1; exit }
      other == "" { other = $1 }
      END { if (!found && other != "") print other }')
fi
[[ -n $mirror ]] || die "no Debian mirror in the apt sources; set DEBIAN_MIRROR=URL"
mirror=${mirror%/}

umask 022
export LC_ALL=C TZ=UTC
epoch=${SOURCE_DATE_EPOCH:-$(date +%s)}
when=$(date -u -d "@$epoch" +%Y-%m-%dT%H:%M:%SZ)

# Beside the result, because a base system may be too big for /tmp.
work=$(mktemp -d "$dest/.build.XXXXXX")
root=$work/rootfs
cleanup() {
  # An interrupted debootstrap leaves its mounts: never delete through them.
  local point
  while read -r point; do
    umount -l "$point" || return
  done < <(awk -v under="$work/" 'index($2, under) == 1 { print $2 }' /proc/self/mounts | sort -r)
  rm -rf --one-file-system "$work"
}
trap cleanup EXIT
# With these, bash lets a running debootstrap end before it cleans up under it.
trap 'exit 130' INT
trap 'exit 143' TERM HUP

copy() { skopeo --insecure-policy copy --quiet "$@"; }
build() { buildah --root "$work/store" --runroot "$work/run" --storage-driver vfs "$@"; }

oci=$work/oci
umoci init --layout "$oci"

start_image() { # TAG ARCHITECTURE
  umoci new --image "$oci:$1"
  umoci config --image "$oci:$1" --no-history --created "$when" --os linux --architecture "$2"
}
write_tar() { # FOLDER FILE
  tar --create --file "$2" --directory "$1" --format=posix --sort=name \
    --pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime \
    --clamp-mtime --mtime="@$epoch" --numeric-owner "${@:3}" .
}
add_layer() { # TAG TAR CREATED_BY
  umoci raw add-layer --image "$oci:$1" --history.created "$when" \
    --history.created_by "$3" --history.comment "" "$2"
}
labels() { # TITLE DESCRIPTION VERSION LICENSES SOURCE
  local word
  for word in "title=$1" "description=$2" "version=$3" "licenses=$4" \
    "vendor=built from Debian packages" "created=$when" \
    "url=https://www.debian.org/" "source=$5"; do
    printf '%s\n' --config.label "org.opencontainers.image.$word"
  done
}
add_to_real() { # skopeo copy arguments and SOURCE; TAG last
  # A fresh layout is filled, then moved into place: DEST/real is never half done.
  local tag=${!#}
  if [[ ! -d $work/real ]]; then
    if [[ -d $real ]]; then cp -a "$real" "$work/real"; else layout init "$work/real"; fi
  fi
  copy "${@:1:$#-1}" "oci:$work/real:$tag"
  layout normalise "$work/real"
  layout check "$work/real" "$tag" >/dev/null
  rm -rf "$real"
  mv "$work/real" "$real"
  echo "tag $tag is in $real"
}

# ------------------------------------------------------------------- busybox

# An apt of its own for each architecture: own lists, own cache, an empty dpkg
# status, and so no "dpkg --add-architecture" on this machine.
private_apt() { # ARCHITECTURE ARGUMENTS
  local architecture=$1 state=$work/apt/$1
  shift
  if [[ ! -d $state ]]; then
    mkdir -p "$state"/{lists/partial,cache/archives/partial,etc/sources.list.d,etc/preferences.d}
    : >"$state/status"
    echo "deb [signed-by=$keyring] $mirror $suite main" >"$state/etc/sources.list"
    cat >"$state/apt.conf" <<CONF
#clear APT::Architectures;
APT::Architecture "$architecture";
APT::Architectures { "$architecture"; };
APT::Sandbox::User "";
Dir::State "$state";
Dir::State::lists "$state/lists";
Dir::State::status "$state/status";
Dir::Cache "$state/cache";
Dir::Etc::sourcelist "$state/etc/sources.list";
Dir::Etc::sourceparts "$state/etc/sources.list.d";
Dir::Etc::preferences "$state/etc/preferences";
Dir::Etc::preferencesparts "$state/etc/preferences.d";
Acquire::Languages "none";
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
CONF
    # The machine's other settings (a proxy, say) still hold.
    apt-get -c "$state/apt.conf" -qq update ||
      die "apt cannot read $mirror ($suite, $architecture)"
  fi
  apt-get -c "$state/apt.conf" "$@"
}

busybox_image() {
  local pair architecture debian variant version='' skeleton=$work/skeleton applet file content
  echo "busybox: from $mirror"

  # First layer, for all architectures: folders, users, links.
  mkdir -p "$skeleton"/{bin,dev,etc,home,proc,root,sys,tmp,usr/bin,usr/sbin,var/log}
  chmod 1777 "$skeleton/tmp"
  chmod 700 "$skeleton/root"
  printf '%s\n' 'root:x:0:0:root:/root:/bin/sh' \
    'nobody:x:65534:65534:nobody:/home:/bin/false' >"$skeleton/etc/passwd"
  printf '%s\n' 'root:x:0:' 'nogroup:x:65534:' >"$skeleton/etc/group"
  # A fixed choice: the foreign binaries cannot be asked for their list.
  for applet in sh ash awk basename cat chmod chown cp cut date dd df dirname \
    du echo env expr false find grep gunzip gzip head hostname id kill ln ls \
    mkdir mktemp mount mv nc printf ps pwd readlink rm rmdir sed sha256sum \
    sleep sort stat tail tar tee test touch tr true umount uname uniq vi wc \
    wget which whoami xargs; do
    ln -s busybox "$skeleton/bin/$applet"
  done
  write_tar "$skeleton" "$work/skeleton.tar" --owner=0 --group=0

  build manifest create busybox >/dev/null
  for pair in amd64:amd64: arm64:arm64:v8 arm:armhf:v7; do
    IFS=: read -r architecture debian variant <<<"$pair"
    content=$work/busybox-$debian
    mkdir -p "$content/deb" "$content/root/bin" "$content/root/usr/share/doc/busybox-static"
    (cd "$content/deb" && private_apt "$debian" -qq download busybox-static) ||
      die "cannot download busybox-static for $debian"
    file=$(echo "$content"/deb/busybox-static_*.deb)
    version=$(dpkg-deb -f "$file" Version)
    dpkg-deb -x "$file" "$content/x"
    # Older packages have /bin/busybox, newer ones /usr/bin/busybox.
    cp -p "$(find "$content/x" -type f -path '*bin/busybox' | head -n1)" "$content/root/bin/busybox"
    cp -p "$content/x/usr/share/doc/busybox-static/copyright" \
      "$content/root/usr/share/doc/busybox-static/"
    write_tar "$content/root" "$content.tar" --owner=0 --group=0

    start_image "busybox-$debian" "$architecture"
    add_layer "busybox-$debian" "$work/skeleton.tar" "folders, users and links to busybox"
    add_layer "busybox-$debian" "$content.tar" "busybox-static $version ($debian)"
    mapfile -t words < <(labels busybox "Static busybox of Debian $suite" "$version" GPL-2.0-only \
      "https://sources.debian.org/src/busybox/${version%+b[0-9]*}/")
    umoci config --image "$oci:busybox-$debian" "${words[@]}" --created "$when" \
      --config.env PATH=/bin:/usr/bin --config.cmd /bin/sh --config.workingdir / \
      --history.created "$when" --history.created_by "CMD /bin/sh" --history.comment ""
    [[ -z $variant ]] || layout variant "$oci" "busybox-$debian" "$variant"
    build manifest add busybox "oci:$oci:busybox-$debian" >/dev/null
  done
  build manifest push --quiet --all --format oci busybox "oci:$work/busybox:busybox"
  add_to_real --all "oci:$work/busybox:busybox" busybox
}

# -------------------------------------------------------------------- debian

debian_image() {
  local debian architecture variant='' version bundle=$work/bundle
  debian=$(dpkg --print-architecture)
  case $debian in
    amd64 | riscv64 | s390x) architecture=$debian ;;
    arm64) architecture=arm64 variant=v8 ;;
    armhf) architecture=arm variant=v7 ;;
    i386) architecture=386 ;;
    ppc64el) architecture=ppc64le ;;
    *) die "no name known for the architecture $debian" ;;
  esac

  # First layer: the base system as debootstrap leaves it.
  echo "debian: debootstrap $suite ($debian) from $mirror, some minutes"
  debootstrap --variant=minbase --arch="$debian" --keyring="$keyring" \
    "$suite" "$root" "$mirror" >"$work/debootstrap.log" 2>&1 ||
    { tail -n 20 "$work/debootstrap.log" >&2; die "debootstrap failed"; }
  version=$(cat "$root/etc/debian_version")
  # Nothing of this machine goes into the image: names, caches, logs, devices.
  rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/var/log/* \
    "$root"/var/cache/ldconfig/aux-cache "$root"/debootstrap
  rm -f "$root/etc/resolv.conf" "$root/etc/hostname" "$root/etc/machine-id"
  : >"$root/etc/machine-id"
  mkdir -p "$root"/var/cache/apt/archives/partial "$root"/var/lib/apt/lists/partial "$root"/var/log/apt
  echo "deb http://deb.debian.org/debian $suite main" >"$root/etc/apt/sources.list"
  write_tar "$root" "$work/base.tar" --exclude='./dev/*' --exclude='./proc/*' --exclude='./sys/*'
  rm -rf --one-file-system "$root"

  start_image debian "$architecture"
  add_layer debian "$work/base.tar" "debootstrap --variant=minbase $suite"
  rm "$work/base.tar"

  # Second layer: a real change to the first.  umoci compares the tree before
  # and after, so removed files become whiteouts.
  echo "debian: second layer (netbase, without manuals)"
  umoci unpack --image "$oci:debian" "$bundle"
  mkdir -p "$work/deb"
  (cd "$work/deb" && private_apt "$debian" -qq download netbase) || die "cannot download netbase"
  cp "$work"/deb/netbase_*.deb "$bundle/rootfs/netbase.deb"
  DEBIAN_FRONTEND=noninteractive PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    chroot "$bundle/rootfs" dpkg -i /netbase.deb >"$work/dpkg.log" 2>&1 ||
    { tail -n 20 "$work/dpkg.log" >&2; die "dpkg failed in the image"; }
  rm "$bundle/rootfs/netbase.deb"
  rm -rf "$bundle"/rootfs/usr/share/{man,info}/* "$bundle"/rootfs/var/log/dpkg.log
  umoci repack --image "$oci:debian" --history.created "$when" \
    --history.created_by "dpkg -i netbase; rm manuals" --history.comment "" "$bundle"

  mapfile -t words < <(labels debian "Debian $version ($suite) base system" "$version" \
    LicenseRef-various "https://sources.debian.org/")
  umoci config --image "$oci:debian" "${words[@]}" --created "$when" \
    --config.env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    --config.cmd /bin/bash --config.workingdir / \
    --history.created "$when" --history.created_by "CMD /bin/bash" --history.comment ""
  [[ -z $variant ]] || layout variant "$oci" debian "$variant"
  add_to_real "oci:$oci:debian" debian
}

for tag in "${todo[@]}"; do
  "${tag}_image"
done
layout check "$real" "${wanted[@]}"
