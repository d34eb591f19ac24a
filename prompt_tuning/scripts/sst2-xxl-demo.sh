#!/usr/bin/env bash
exec bash "$(dirname "${BASH_SOURCE[0]}")/sst2-demo-xxl.sh" "$@"  # the same under its other name
