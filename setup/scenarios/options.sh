#!/usr/bin/env bash
# What scripts make of their options: the values, and each mistake with a word that says what is wrong.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../lib.sh
. "$(dirname "$0")/../lib.sh"

COUNT=7
FEW=3
FILE=
HOW=slowly
PARTS=a,b,c
LOUD=no
WORDS=()

usage() { say 'Usage: a script'; }

# script ARGUMENT…: one that prints what it was told.
script() {
    read_options "--count COUNT number" "--few FEW number:99" "--file FILE file" "--how HOW slowly,quickly" "--parts PARTS some:$PARTS" \
        "--loud LOUD =yes" "--quiet LOUD =never" "- WORDS north,south" -- "$@"
    say "$COUNT $FILE $HOW $PARTS $LOUD ${WORDS[*]}"
}

few() {
    read_options "--few FEW number:99" -- "$@"
    say "$FEW"
}

# prints EXPECTED ARGUMENT…
prints() {
    local said
    said=$(script "${@:2}")
    [ "$said" = "$1" ] || die "with '${*:2}': '$said', and not '$1'"
}

# refuses STATUS TEXT ARGUMENT…: ends with that status, and says that.
refuses() {
    local status=0 said
    said=$( (script "${@:3}") 2>&1) || status=$?
    [ "$status" -eq "$1" ] || die "with '${*:3}' the status is $status, and not $1"
    [[ $said == *"$2"* ]] || die "with '${*:3}': '$said', and not '$2'"
}

main() {
    prints '7  slowly a,b,c no '
    prints '12 x y quickly c,a yes south north' south --count 12 --loud --parts c,a --file 'x y' --how quickly north
    prints '7  slowly a,b,c never ' --loud --quiet
    refuses 0 'Usage: a script' --help
    refuses 0 'Usage: a script' --loud -h --nonsense
    refuses 2 'Usage: a script' --nonsense
    refuses 2 'Usage: a script' --loud=yes
    refuses 1 'wants a number, such as 7' --count
    refuses 1 'wants a number, such as 7' --count 0
    refuses 1 'wants a number, such as 7' --count --loud
    refuses 1 'wants a number, such as 3' --few x
    refuses 1 'wants a number up to 99' --few 100
    [ "$(few --few 99)" = 99 ] || die 'a number at its bound is not taken'
    refuses 1 'wants the name of a file' --file ''
    refuses 1 '--how is one of slowly,quickly' --how slow
    refuses 1 '--how is one of slowly,quickly' --how slowly,quickly
    refuses 1 '--parts wants some of a,b,c' --parts a,d
    refuses 1 '--parts wants some of a,b,c' --parts
    refuses 1 'west is not known here' north west
    refuses 1 ' is not known here' ''
    refuses 1 '- is not known here' -
}

main "$@"
