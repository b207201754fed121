// Pixels and latents as the model takes and gives them: planes [C, H, W] of bytes, rows of floats.

// RGBA pixels of a canvas as planes; grey by the weights of ITU-R BT.601, as Pillow has it.
export function planes(rgba, channels) {
  const size = rgba.length / 4;
  const out = new Uint8Array(channels * size);
  for (let i = 0; i < size; i++) {
    const [r, g, b] = rgba.subarray(4 * i, 4 * i + 3);
    if (channels === 1) out[i] = Math.round(0.299 * r + 0.587 * g + 0.114 * b);
    else [out[i], out[size + i], out[2 * size + i]] = [r, g, b];
  }
  return out;
}

// Planes as RGBA pixels of a canvas.
export function rgba(image, channels) {
  const size = image.length / channels;
  const out = new Uint8ClampedArray(4 * size);
  for (let i = 0; i < size; i++) {
    for (let c = 0; c < 3; c++) out[4 * i + c] = image[(channels === 1 ? 0 : c * size) + i];
    out[4 * i + 3] = 255;
  }
  return out;
}

// Numbers of [0, 1) that are the same every time (mulberry32).
export function uniforms(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}

// A grey value is the probability of a white pixel.
export function binarised(image, seed = 0) {
  const uniform = uniforms(seed);
  return image.map((value) => (uniform() * 255 < value ? 255 : 0));
}

// Standard normal noise (Box and Muller 1958).
export function normals(number, seed) {
  const uniform = uniforms(seed);
  return Float32Array.from({ length: number }, () =>
    Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform()));
}

// One row, as often as it is wanted.
export function repeated(row, times) {
  const out = new row.constructor(row.length * times);
  for (let i = 0; i < times; i++) out.set(row, i * row.length);
  return out;
}

// Labels 0 to number - 1, or one label.
export const labels = (number) => BigInt64Array.from({ length: number }, (_, i) => BigInt(i));
export const oneLabel = (label) => BigInt64Array.of(BigInt(label));

// How a picture is cropped at the centre to a shape's proportions: x, y, width, height.
export function crop(width, height, shape) {
  const [, rows, columns] = shape;
  const scale = Math.min(width / columns, height / rows);
  const [w, h] = [columns * scale, rows * scale];
  return [(width - w) / 2, (height - h) / 2, w, h];
}
