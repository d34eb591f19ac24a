#!/usr/bin/env bash
exec bash "$(dirname "${BASH_SOURCE[0]}")/sst2-demo-xxl.sh" "$@"  # an alias
