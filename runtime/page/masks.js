// COCO's compressed run lengths, as the server sends them, to a map of segments at the size of the screen.

// Lengths of runs of 0 and 1 down the columns; runtime/rle.py says how the string has them.
export function runLengths(text) {
  const counts = [];
  let value = 0;
  let shift = 0;
  for (let place = 0; place < text.length; place++) {
    const digit = text.charCodeAt(place) - 48;
    value += (digit & 0x1f) * 2 ** shift;
    shift += 5;
    if (digit & 0x20) continue;
    if (digit & 0x10) value -= 2 ** shift;
    counts.push(counts.length > 2 ? value + counts[counts.length - 2] : value);
    value = 0;
    shift = 0;
  }
  return counts;
}

// Uint16Array [height * width] by rows: 0, or the place of a segment in the list from 1. Later ones lie on top.
export function segmentMap(segments, [fullHeight, fullWidth], [height, width]) {
  const map = new Uint16Array(height * width);
  const columns = firstPlaces(fullWidth, width);
  const rows = firstPlaces(fullHeight, height);
  segments.forEach(({ rle }, index) => {
    let position = 0;
    runLengths(rle.counts).forEach((length, run) => {
      if (run % 2 === 1) paint(map, position, position + length, index + 1, columns, rows, fullHeight, width);
      position += length;
    });
  });
  return map;
}

function paint(map, start, end, value, columns, rows, fullHeight, width) {
  while (start < end) {
    const column = Math.floor(start / fullHeight);
    const stop = Math.min(end, (column + 1) * fullHeight);
    const top = rows[start - column * fullHeight];
    const bottom = rows[stop - column * fullHeight];
    for (let x = columns[column]; x < columns[column + 1]; x++) {
      for (let y = top; y < bottom; y++) map[y * width + x] = value;
    }
    start = stop;
  }
}

// For each place of the full length (and its end) the first place on the screen whose middle is not before it.
function firstPlaces(full, shown) {
  return Int32Array.from({ length: full + 1 }, (_, place) => Math.max(0, Math.ceil((place * shown) / full - 0.5)));
}
