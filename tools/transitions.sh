#!/bin/sh
# Train and measure all that chapters 08 and 09 need, on a GPU: about ten minutes on a large one.
#   tools/transitions.sh [RESULTS]      copies what it made to the folder RESULTS
# DEVICE, SECONDS_MOTION, SECONDS_VIDEO, SECONDS_ALONE, SECONDS_PASSAGES, BATCH, BATCH_ALONE, BATCH_PASSAGES, CLIPS,
# STORIES, PYTHON can be set in the environment; and BEGIN: a folder of earlier decoders, video-ours, video-apart,
# video-sparse and video-mask, to go on from.
set -eu
device=${DEVICE:-cuda} clips=${CLIPS:-6000} stories=${STORIES:-210} python=${PYTHON:-python}
motion=${SECONDS_MOTION:-50} video=${SECONDS_VIDEO:-220} alone=${SECONDS_ALONE:-220}
train="$python -m storydiff_lite.training"
common="--device $device --clips $clips --heldout $stories"

$train video --prepare $common
$train motion --device "$device" --seconds "$motion" --pictures "$clips" ${MOTION_MORE:-}
# four variants at once, on the same clips, for the same time
pids=""
for variant in ours apart sparse mask; do
    $train video --variant $variant --seconds "$video" --batch "${BATCH:-32}" $common \
        ${BEGIN:+--begin "$BEGIN/video-$variant"} ${VIDEO_MORE:-} > "checkpoints/video-$variant.log" 2>&1 &
    pids="$pids $!"
done
failed=0
for pid in $pids; do wait "$pid" || failed=1; done
tail -n 3 checkpoints/video-*.log
[ $failed = 0 ]
# the one that is shipped goes on alone; what it was before is what the others compare with
mv checkpoints/video-ours checkpoints/video-alike
rm -f checkpoints/video-ours.safetensors
$train video --seconds "$alone" --batch "${BATCH_ALONE:-48}" --seed 1 $common \
    --begin checkpoints/video-alike ${VIDEO_MORE:-}
$train video --pack
# what lies between two panels is learnt beside the decoder that is shipped now
rm -f checkpoints/passages.safetensors
$train passages --device "$device" --clips "$clips" --passages "$clips" --heldout "$stories" \
    --batch "${BATCH_PASSAGES:-32}" --seconds "${SECONDS_PASSAGES:-100}"
$train passages --pack
$python -m storydiff_lite.experiments video --device "$device" --stories "$stories"
$python -m storydiff_lite.experiments passages --device "$device"
if [ $# -gt 0 ]; then
    mkdir -p "$1/checkpoints" "$1/data/cards" "$1/results"
    cp checkpoints/motion.safetensors "$1/checkpoints/"
    for variant in ours alike apart sparse mask; do cp -r "checkpoints/video-$variant" "$1/checkpoints/"; done
    cp checkpoints/video-*.log "$1/checkpoints/"
    cp -r storydiff_lite/data/video storydiff_lite/data/passages "$1/data/"
    cp storydiff_lite/data/cards/video.json storydiff_lite/data/cards/passages.json "$1/data/cards/"
    cp -r book/results/video.json book/results/video book/results/passages.json "$1/results/"
fi
