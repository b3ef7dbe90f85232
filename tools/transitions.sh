#!/bin/sh
# Train and measure all that chapters 08 and 09 need, on a GPU: about five minutes on a large one.
#   tools/transitions.sh [RESULTS]      copies what it made to the folder RESULTS
# DEVICE, SECONDS_MOTION, SECONDS_VIDEO, CLIPS, STORIES, PYTHON can be set in the environment.
set -eu
device=${DEVICE:-cuda} clips=${CLIPS:-3000} stories=${STORIES:-210} python=${PYTHON:-python}
motion=${SECONDS_MOTION:-50} video=${SECONDS_VIDEO:-140}
train="$python -m storydiff_lite.training"

$train video --prepare --device "$device" --clips "$clips" --heldout "$stories"
$train motion --device "$device" --seconds "$motion" --pictures "$clips" ${MOTION_MORE:-}
# four variants at once, on the same clips, for the same time
pids=""
for variant in ours apart sparse mask; do
    $train video --variant $variant --device "$device" --seconds "$video" --clips "$clips" \
        --heldout "$stories" ${VIDEO_MORE:-} > "checkpoints/video-$variant.log" 2>&1 &
    pids="$pids $!"
done
failed=0
for pid in $pids; do wait "$pid" || failed=1; done
tail -n 3 checkpoints/video-*.log
[ $failed = 0 ]
$train video --pack
$python -m storydiff_lite.experiments video --device "$device" --stories "$stories"
if [ $# -gt 0 ]; then
    mkdir -p "$1/checkpoints" "$1/data/cards" "$1/results"
    cp -r checkpoints/motion.safetensors checkpoints/video-ours checkpoints/video-apart checkpoints/video-sparse checkpoints/video-mask "$1/checkpoints/"
    cp checkpoints/video-*.log "$1/checkpoints/"
    cp -r storydiff_lite/data/video "$1/data/"
    cp storydiff_lite/data/cards/video.json "$1/data/cards/"
    cp -r book/results/video.json book/results/video "$1/results/"
fi
