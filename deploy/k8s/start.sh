#!/bin/sh
# Runs highwater with the given arguments, once per pod where it must not run again.
#
# A StatefulSet starts a container again whatever its exit code was. Some ends are for good: 0 (the input was
# drained) and 4 (the state was refused, or a newer run has it, which a further start would push
# aside in turn). They are kept in a volume that lasts as long as the pod; delete the pod to start once more.

ended=${HIGHWATER_ENDED:-/run/highwater/ended}

if [ -s "$ended" ]; then
  code=$(cat "$ended")
  echo "this process has ended with exit code $code, for good; delete the pod to start it again" >&2
  exit "$code"
fi

highwater "$@" &
child=$!
trap 'kill -TERM "$child" 2>/dev/null' TERM INT
wait "$child"
code=$?
# A signal ends the first wait; the run then ends in good order.
while kill -0 "$child" 2>/dev/null; do
  wait "$child"
  code=$?
done

case $code in
  0 | 4) echo "$code" >"$ended" ;;
esac
exit "$code"
