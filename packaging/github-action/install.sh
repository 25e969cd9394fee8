#!/usr/bin/env bash
# Puts devbox-agent, and what its `exec` runs, within reach of the job's later steps, and checks that it works here.
#
# What the runner has is used as it is; the rest goes below RUNNER_TEMP, which is emptied after the job. Root is asked for only where
# something is missing that needs it: packages of the distribution, and AppArmor's leave to make user namespaces.
set -euo pipefail

# The version that the agent is tested with.
tailscale_version=1.102.3

home=${RUNNER_TEMP:?is not set: this is for jobs of GitHub Actions}/devbox-agent
mkdir -p "$home/bin"
# An ordinary user's PATH may lack where distributions keep tailscaled and nft; exec looks there too.
PATH=$home/bin:$PATH:/usr/local/sbin:/usr/sbin:/sbin

fail() {
	echo "::error title=devbox-agent::$*"
	exit 1
}

has() {
	command -v "$1" >/dev/null
}

as_root() {
	if [[ $(id -u) == 0 ]]; then "$@"; else has sudo && sudo -n "$@"; fi
}

# fetch PATH|URL FILE
fetch() {
	local url=$1
	[[ $url == *://* ]] || url=file://$(realpath -- "$url")
	curl --fail --silent --show-error --location --retry 3 --output "$2" -- "$url" || fail "failed to fetch $1"
}

# verify FILE SHA256
verify() {
	sha256sum --check --status <<<"$2  $1" || fail "failed to verify $1: its SHA-256 is not $2"
}

install_agent() {
	[[ -n $PACKAGE ]] || fail "this runner has no devbox-agent: give the input package, a path or URL of its Debian package"
	has dpkg-deb || fail "failed to unpack $PACKAGE: this runner has no dpkg-deb; have devbox-agent in its image"
	fetch "$PACKAGE" "$home/agent.deb"
	[[ -z $PACKAGE_SHA256 ]] || verify "$home/agent.deb" "$PACKAGE_SHA256"
	dpkg-deb --extract "$home/agent.deb" "$home/package"
	mv "$home/package/usr/bin/devbox-agent" "$home/bin/"
	allow_namespaces "$home/package/usr/share/devbox-agent/apparmor/devbox-agent"
}

# allow_namespaces PROFILE: the package's, for the program where it is now. Without root, `exec --check` says what to do.
allow_namespaces() {
	local restricted=/proc/sys/kernel/apparmor_restrict_unprivileged_userns
	[[ -e $restricted && $(<"$restricted") == 1 ]] || return 0
	sed "s,/usr/bin/devbox-agent,$home/bin/devbox-agent," "$1" >"$home/apparmor"
	as_root apparmor_parser --replace "$home/apparmor" || echo "::warning title=devbox-agent::failed to load the AppArmor profile"
}

install_tailscaled() {
	local machine archive
	machine=$(uname -m)
	case $machine in
	x86_64) machine=amd64 ;;
	aarch64) machine=arm64 ;;
	esac
	archive=${TAILSCALE:-https://pkgs.tailscale.com/stable/tailscale_${tailscale_version}_$machine.tgz}
	fetch "$archive" "$home/tailscale.tgz"
	fetch "$archive.sha256" "$home/tailscale.sha256"
	verify "$home/tailscale.tgz" "$(cut -d ' ' -f 1 "$home/tailscale.sha256")"
	tar -xzf "$home/tailscale.tgz" -C "$home/bin" --strip-components=1 --wildcards '*/tailscaled'
}

install_packages() {
	local missing=()
	has pasta || missing+=(passt)
	has nft || missing+=(nftables)
	((${#missing[@]})) || return 0
	has apt-get || fail "failed to install ${missing[*]}: this runner has no apt-get; have it in its image"
	{ as_root apt-get -qq update && as_root apt-get -qq install -y --no-install-recommends "${missing[@]}"; } >&2 ||
		fail "failed to install ${missing[*]}: have it in the runner's image, or let its user use sudo"
}

has devbox-agent || install_agent
has tailscaled || install_tailscaled
install_packages
devbox-agent exec --check || fail "devbox-agent exec does not work on this runner; the line above says why"
echo "$home/bin" >>"$GITHUB_PATH"
