#!/bin/bash
# Builds the test bed of the real-Odoo suite: one folder per series with Odoo as
# Debian packages it, and the add-ons as their authors publish them. Neither is
# part of this repository. What is complete stays in the cache folder.
#
# usage: testbed.sh build 14|19     make the folder, unless it is there
#        testbed.sh check           say what is missing on this machine
#        testbed.sh path 14|19      print the folder
#        testbed.sh clean [14|19]   remove it (without a series: all)
#
#   ODOOTEST_CACHE    the cache folder (default: caddy-jobrunner-odoo in the
#                     user's cache folder)
#   ODOOTEST_MIRROR   the Debian mirror (default: the one that apt uses)
#
# Needs root (chroot, mount namespaces), debootstrap, unshare, and pip:
# apt-get install debootstrap util-linux python3-pip
set -euo pipefail

# Raised when the recipe changes, so that old folders are built again.
RECIPE=1
CACHE=${ODOOTEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/caddy-jobrunner-odoo}

fail() {
	echo "odootest: $*" >&2
	exit 1
}

# series sets what is special about one series.
series() {
	case ${1:-} in
	14)
		suite=bullseye package=odoo-14 python=3.9
		addons=(odoo14-addon-queue-job==14.0.3.15.1)
		;;
	19)
		suite=sid package=odoo-19 python=3.14
		# openupgradelib is what this release of the add-on depends on.
		addons=(odoo-addon-queue-job==19.0.2.4.0.1 openupgradelib==3.13.7)
		;;
	*) fail "unknown series '${1:-}': 14 and 19 can be had" ;;
	esac
	target=$CACHE/odoo-$1-$RECIPE
}

# mirror prints the address of the Debian archive that apt uses on this machine.
mirror() {
	if [ -n "${ODOOTEST_MIRROR:-}" ]; then
		echo "$ODOOTEST_MIRROR"
		return
	fi
	local found
	# shellcheck disable=SC2016 # apt's own placeholders
	found=$(apt-get indextargets --format '$(ORIGIN) $(COMPONENT) $(SITE)' 'Created-By: Packages' |
		awk '$1 == "Debian" && $2 == "main" && $3 !~ /security/ && !seen[$3]++ { print $3 }' | head -n 1)
	[ -n "$found" ] || fail "apt knows no Debian archive here; name one with ODOOTEST_MIRROR"
	echo "$found"
}

# inside runs a command in the chroot. The mounts belong to a namespace that ends
# with the command, so there is nothing to unmount, and removing the folder
# cannot reach through a mount.
inside() {
	local root=$1
	shift
	env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/ LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive \
		unshare --mount --pid --fork --kill-child --root="$root" --wd=/ --mount-proc "$@"
}

# step runs one command of the recipe; its output is only shown when it fails.
step() {
	local what=$1 started=$SECONDS
	shift
	if ! "$@" >"$log" 2>&1; then
		tail -n 30 "$log" >&2
		fail "could not get: $what"
	fi
	echo "odootest: $what: $((SECONDS - started)) s"
}

# check fails with what is missing, before anything has been built or downloaded.
check() {
	[ "$(id -u)" = 0 ] || fail "needs root: Odoo is installed into a chroot"
	local program missing=()
	for program in debootstrap unshare pip python3; do
		command -v "$program" >/dev/null || missing+=("$program")
	done
	[ ${#missing[@]} = 0 ] ||
		fail "needs ${missing[*]}: apt-get install debootstrap util-linux python3-pip"
}

build() {
	if [ -e "$target/complete" ]; then
		return
	fi
	check
	mkdir -p "$CACHE"
	exec 9>"$target.lock"
	flock 9
	[ ! -e "$target/complete" ] || return 0 # somebody else was faster
	local part=$target.part archive
	archive=$(mirror)
	log=$target.log
	rm -rf --one-file-system "$part" "$target"
	mkdir -p "$part/wheels"
	step "the add-ons ${addons[*]}" pip download --no-deps --only-binary=:all: --python-version "$python" \
		--dest "$part/wheels" "${addons[@]}"
	step "Debian $suite" debootstrap --variant=minbase "$suite" "$part/root" "$archive"
	step "the add-ons' files" unpack "$part"
	printf '#!/bin/sh\nexit 101\n' >"$part/root/usr/sbin/policy-rc.d" # no service starts
	chmod 755 "$part/root/usr/sbin/policy-rc.d"
	step "Odoo ($package)" inside "$part/root" \
		apt-get install -y -q --no-install-recommends "$package" python3-requests
	rm -rf "$part/root/var/cache/apt/archives" "$part/wheels"
	touch "$part/complete"
	mv "$part" "$target"
}

# unpack puts the add-ons where Odoo is told to look, and everything else where
# Python is told to look.
unpack() {
	local wheel
	for wheel in "$1"/wheels/*.whl; do
		python3 -m zipfile -e "$wheel" "$1/root/srv/python"
	done
	mv "$1/root/srv/python/odoo/addons" "$1/root/srv/addons"
	rmdir "$1/root/srv/python/odoo"
}

case ${1:-} in
check)
	check
	;;
build)
	series "${2:-}"
	build
	;;
path)
	series "${2:-}"
	echo "$target"
	;;
clean)
	if [ -n "${2:-}" ]; then
		series "$2"
		rm -rf --one-file-system "$target" "$target.part" "$target.lock" "$target.log"
	else
		rm -rf --one-file-system "$CACHE"/odoo-{14,19}-*
	fi
	;;
*) fail "usage: testbed.sh check|build|path|clean 14|19" ;;
esac
