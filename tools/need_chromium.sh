#!/usr/bin/env bash
# The browser checks need a Chromium. Use the one that is there; on Debian and its kin, install it.
set -euo pipefail

if [ -n "${STORYDIFF_CHROMIUM:-}" ]; then
  [ -x "$STORYDIFF_CHROMIUM" ] && exit 0
  echo "STORYDIFF_CHROMIUM names $STORYDIFF_CHROMIUM, which is not a program. Set it to a Chromium or Chrome, or unset it." >&2
  exit 1
fi
for name in chromium chromium-browser google-chrome google-chrome-stable; do
  command -v "$name" >/dev/null && exit 0
done

if ! command -v apt-get >/dev/null; then
  echo "The browser checks need Chromium, and none was found on the PATH." >&2
  echo "Install Chromium or Chrome, or point to one: make test STORYDIFF_CHROMIUM=/path/to/chrome" >&2
  exit 1
fi
sudo=
if [ "$(id -u)" != 0 ]; then
  if ! command -v sudo >/dev/null; then
    echo "The browser checks need Chromium, and installing it needs root: run \`apt-get install chromium\` as root." >&2
    exit 1
  fi
  sudo=sudo
fi
echo "installing chromium for the browser checks"
log=$(mktemp)
for try in 1 2 3; do
  if $sudo apt-get update -qq >"$log" 2>&1 &&
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends chromium >>"$log" 2>&1; then
    rm -f "$log"
    exit 0
  fi
  sleep $((try * 5))  # mirrors fail now and then
done
tail -n 20 "$log" >&2
echo "apt-get could not install chromium (its last words are above). Install it by hand, then run this again." >&2
exit 1
