#!/usr/bin/env bash
# The steps of a release, each by itself, for the workflow and for a machine of one's own:
#   release.sh check TAG             the tag names the version of the program, the chart and the changelog
#   release.sh notes                 print the section of the changelog
#   release.sh image NAME [--push]   build the image for amd64 and arm64; the last line is its digest
#   release.sh binary PROGRAM FOLDER pack the command for the system that this runs on
#   release.sh chart NAME FOLDER     pack the chart, with NAME as the repository of its image. In a workflow, also
#                                    with the address of the repository as its home
#   release.sh sbom FOLDER           list the crates of the program, as CycloneDX
#   release.sh sums FOLDER           write SHA256SUMS of all files in the folder
# Nothing names an owner or a registry: NAME does, such as ghcr.io/OWNER/REPOSITORY.
set -euo pipefail
cd "$(dirname "$0")/../.."

name=vault-secrets-reloader
chart=deploy/charts/$name
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)

fail() {
  echo "release: $*" >&2
  exit 1
}

# The section of the changelog about the version, without its heading and the empty lines around. A release
# page is in no folder, so links get the address of the file.
notes() {
  local files=${GITHUB_SERVER_URL:-https://github.com}/${GITHUB_REPOSITORY:-}/blob/v$version
  if [[ -z ${GITHUB_REPOSITORY:-} ]]; then
    section
  else
    section | sed -E "s|\]\(([^):#]+[^):]*)\)|](${files}/\1)|g"
  fi
}

section() {
  awk -v heading="## $version" '
    index($0, "## ") == 1 { here = ($0 == heading || index($0, heading " ") == 1); next }
    here && (NF || text != "") { text = text $0 "\n" }
    END { sub(/\n+$/, "\n", text); printf "%s", text }
  ' CHANGELOG.md
}

check() {
  local tag=${1:?release.sh check TAG} key said
  [[ $tag == "v$version" ]] || fail "the tag is $tag, but Cargo.toml has the version $version"
  for key in version appVersion; do
    said=$(sed -n "s/^$key: *\"*\([^\"]*\)\"*$/\1/p" "$chart/Chart.yaml")
    [[ $said == "$version" ]] || fail "$key in $chart/Chart.yaml is $said, not $version"
  done
  [[ -n $(section) ]] || fail "CHANGELOG.md has no section '## $version'"
  echo "release: $tag is the version of the program, the chart and the changelog"
}

image() {
  local image=${1:?release.sh image NAME [--push]} output=(--output "type=oci,dest=target/image.tar")
  local source=${GITHUB_SERVER_URL:-https://github.com}/${GITHUB_REPOSITORY:-} key
  local -A about=(
    [title]=$name
    [description]=$(sed -n 's/^description: *//p' "$chart/Chart.yaml")
    [version]=$version
    [revision]=$(git rev-parse HEAD)
    [licenses]=Apache-2.0
  )
  [[ -z ${GITHUB_REPOSITORY:-} ]] || about[source]=$source
  [[ ${2:-} != --push ]] || output=(--push)
  local described=()
  for key in "${!about[@]}"; do
    # Labels are for tools that read the image, annotations for registries that read the index.
    described+=(--label "org.opencontainers.image.$key=${about[$key]}")
    described+=(--annotation "index:org.opencontainers.image.$key=${about[$key]}")
  done
  mkdir -p target
  # No tag but the version: a moving tag says nothing about what runs.
  SOURCE_DATE_EPOCH=$(git log -1 --format=%ct) docker buildx build . \
    --platform linux/amd64,linux/arm64 --tag "$image:$version" "${described[@]}" \
    --provenance=mode=max --sbom=true --metadata-file target/image.json "${output[@]}"
  sed -n 's/.*"containerimage.digest": *"\([^"]*\)".*/\1/p' target/image.json
}

binary() {
  local program=${1:?release.sh binary PROGRAM FOLDER} folder=${2:?release.sh binary PROGRAM FOLDER}
  local system machine packed
  system=$(uname -s | tr '[:upper:]' '[:lower:]')
  case $(uname -m) in
    x86_64) machine=amd64 ;;
    aarch64 | arm64) machine=arm64 ;;
    *) fail "no name for the machine $(uname -m)" ;;
  esac
  [[ $("$program" --version) == "$name $version" ]] || fail "$program is not version $version"
  # It runs, and reads a manifest.
  "$program" check - <deploy/examples/workloads.yaml >/dev/null
  packed=$name-$version-$system-$machine
  mkdir -p "$folder"
  rm -rf -- "target/$packed"
  mkdir -p "target/$packed"
  cp "$program" "target/$packed/$name"
  cp LICENSE README.md "target/$packed/"
  # The variable keeps macOS from adding files of its own.
  COPYFILE_DISABLE=1 tar -czf "$folder/$packed.tar.gz" -C target "$packed"
  rm -rf -- "target/$packed"
  echo "$folder/$packed.tar.gz"
}

# What only the repository that releases the chart knows, as the end of Chart.yaml: more links, which are the
# last key there, and more keys.
chart_origin() {
  local image=$1 home=$2 files=$2/blob/v$version prerelease=false
  [[ $version != *-* ]] || prerelease=true
  cat <<EOF
    - name: Documentation
      url: $files/docs/install.md
    - name: Changes
      url: $files/CHANGELOG.md
    - name: Security policy
      url: $files/SECURITY.md
  artifacthub.io/images: |
    - name: $name
      image: $image:$version
  artifacthub.io/prerelease: "$prerelease"
home: $home
icon: $home/raw/v$version/src/web/page/page.svg
sources:
  - $home
EOF
}

pack_chart() {
  local image=${1:?release.sh chart NAME FOLDER} folder=${2:?release.sh chart NAME FOLDER} helm work found home
  helm=$(.ci/tool helm)
  work=$(mktemp -d)
  # shellcheck disable=SC2064 # The folder of now.
  trap "rm -rf -- '$work'" EXIT
  cp -R "$chart" "$work/"
  sed "/^image:/,/^[^ #]/s|^  repository:.*|  repository: $image|" "$chart/values.yaml" >"$work/$name/values.yaml"
  if [[ -n ${GITHUB_REPOSITORY:-} ]]; then
    home=${GITHUB_SERVER_URL:-https://github.com}/$GITHUB_REPOSITORY
    {
      sed "s|^  - name: The maintainers.*|&\n    url: $home/blob/v$version/MAINTAINERS.md|" "$chart/Chart.yaml"
      chart_origin "$image" "$home"
    } >"$work/$name/Chart.yaml"
    found=$("$helm" show chart "$work/$name" | sed -n 's/^home: //p')
    [[ $found == "$home" ]] || fail "Chart.yaml has the home $found, not $home"
    "$helm" lint --strict --quiet "$work/$name" || fail "the chart does not pass helm lint"
  fi
  # What users get must render, and name this image.
  found=$("$helm" template reloader "$work/$name" | sed -n 's/^ *image: *"*\([^"]*\)"*$/\1/p' | sort -u)
  [[ $found == "$image:$version" ]] || fail "the chart renders the image $found, not $image:$version"
  mkdir -p "$folder"
  "$helm" package "$work/$name" --destination "$folder"
}

sbom() {
  local folder=${1:?release.sh sbom FOLDER} tool file=$name-$version.cdx
  tool=$(.ci/tool cargo-cyclonedx)
  # Of what the image holds: Linux, without what is only used at build time. One file for each member of
  # the workspace is written beside its Cargo.toml; the program's is kept.
  SOURCE_DATE_EPOCH=$(git log -1 --format=%ct) "$tool" cyclonedx --format json --spec-version 1.5 \
    --target x86_64-unknown-linux-gnu --no-build-deps --override-filename "$file"
  mkdir -p "$folder"
  mv "$file.json" "$folder/"
  rm -f -- "e2e/$file.json" "fuzz/$file.json"
  echo "$folder/$file.json"
}

sums() {
  local folder=${1:?release.sh sums FOLDER}
  cd "$folder"
  rm -f SHA256SUMS
  sha256sum -- * >"$OLDPWD/target/SHA256SUMS"
  mv "$OLDPWD/target/SHA256SUMS" .
  cat SHA256SUMS
}

command=${1:-}
shift || true
case $command in
  check | notes | image | binary | sbom | sums) "$command" "$@" ;;
  chart) pack_chart "$@" ;;
  *)
    sed -n '2,12s/^# //p' "$0" >&2
    exit 2
    ;;
esac
