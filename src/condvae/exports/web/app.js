// The page: an image in, what the model makes of it under every label out.

import { binarised, crop, labels, normals, oneLabel, planes, repeated, rgba } from "./arrays.js";

const at = (id) => document.getElementById(id);
const say = (text) => { at("status").textContent = text; };
let model;
const graphs = {};

async function start() {
  if (location.protocol === "file:") {
    say("A browser gives pages from a file no access to their neighbours; serve this folder, for " +
      "instance with: python -m http.server");
    return;
  }
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmPaths = new URL("runtime/", location.href).href;
  model = await (await fetch("model.json")).json();
  const wanted = ["encoder", "decoder", ...(model.samples ? ["sampler"] : [])];
  for (const name of wanted) graphs[name] = await ort.InferenceSession.create(`${name}.onnx`);
  model.class_names.forEach((name, index) => at("label").add(new Option(name, index)));
  document.title = `condvae: ${model.name}`;
  for (const example of model.examples) at("examples").append(exampleButton(example));
  preparePad();
  at("samples").hidden = !model.samples;
  say(model.uses_label ? "Ready." : "Ready. No label reaches this model: all give the same image.");
}

function exampleButton(example) {
  const pixels = Uint8Array.from(atob(example.pixels), (letter) => letter.charCodeAt(0));
  const button = document.createElement("button");
  button.type = "button";
  button.setAttribute("aria-label", `An example of ${model.class_names[example.label]}`);
  button.append(drawn(pixels));
  button.addEventListener("click", told(() => {
    at("label").value = example.label;
    return underEveryLabel(pixels, example.label);
  }));
  return button;
}

// ------------------------------------------------------------------------------ what is computed

const images = (data, number) => new ort.Tensor("uint8", data, [number, ...model.shape]);
const rows = (data, number) => new ort.Tensor("float32", data, [number, model.latents]);
const given = (data) => new ort.Tensor("int64", data, [data.length]);

async function underEveryLabel(pixels, label) {
  const began = performance.now();
  const number = model.class_names.length;
  const seen = model.binary ? binarised(pixels) : pixels;
  const encoded = await graphs.encoder.run({ image: images(seen, 1), label: given(oneLabel(label)) });
  const latents = rows(repeated(encoded.latents.data, number), number);
  const decoded = await graphs.decoder.run({ latents, label: given(labels(number)) });
  show(at("result"), decoded.image.data, label, pixels);
  say(`Done in ${Math.round(performance.now() - began)} ms.`);
}

async function makeUp() {
  const number = model.class_names.length;
  const noise = rows(normals(number * model.latents, Math.floor(performance.now())), number);
  const temperature = new ort.Tensor("float32", Float32Array.of(at("temperature").value), [1]);
  const made = await graphs.sampler.run({ noise, label: given(labels(number)), temperature });
  show(at("made"), made.image.data, -1, null);
}

// ----------------------------------------------------------------------------------- what is shown

function drawn(pixels) {
  const [channels, height, width] = model.shape;
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  canvas.getContext("2d").putImageData(new ImageData(rgba(pixels, channels), width, height), 0, 0);
  return canvas;
}

function show(place, data, own, input) {
  const size = model.shape.reduce((a, b) => a * b);
  const parts = model.class_names.map((name, i) => figure(data.slice(i * size, (i + 1) * size), name, i === own));
  place.replaceChildren(...(input ? [figure(input, "the input", false)] : []), ...parts);
}

function figure(pixels, title, own) {
  const box = document.createElement("figure");
  const caption = document.createElement("figcaption");
  caption.textContent = own ? `${title} (its own)` : title;
  box.className = own ? "own" : "";
  box.append(drawn(pixels), caption);
  return box;
}

// --------------------------------------------------------------------------- images that come in

function fitted(source, width, height) {
  const [channels, rows, columns] = model.shape;
  const canvas = Object.assign(document.createElement("canvas"), { width: columns, height: rows });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, columns, rows);
  context.imageSmoothingQuality = "high";
  context.drawImage(source, ...crop(width, height, model.shape), 0, 0, columns, rows);
  return planes(context.getImageData(0, 0, columns, rows).data, channels);
}

async function chosen() {
  const [file] = at("file").files;
  if (!file) return;
  let picture;
  try {
    picture = await createImageBitmap(file);
  } catch {
    say("This file could not be read as an image.");
    return;
  }
  await underEveryLabel(fitted(picture, picture.width, picture.height), Number(at("label").value));
}

function preparePad() {
  const pad = at("pad");
  const context = pad.getContext("2d");
  const [paper, ink] = [model.ground, model.ground < 128 ? 255 : 0].map((v) => `rgb(${v} ${v} ${v})`);
  const clear = () => {
    context.fillStyle = paper;
    context.fillRect(0, 0, pad.width, pad.height);
  };
  clear();
  Object.assign(context, { lineWidth: pad.width / 14, lineCap: "round", lineJoin: "round", strokeStyle: ink });
  const place = (event) => {
    const box = pad.getBoundingClientRect();
    return [(event.clientX - box.left) * pad.width / box.width, (event.clientY - box.top) * pad.height / box.height];
  };
  pad.addEventListener("pointerdown", (event) => {
    pad.setPointerCapture(event.pointerId);
    context.beginPath();
    context.moveTo(...place(event));
    context.lineTo(...place(event));
    context.stroke();
  });
  pad.addEventListener("pointermove", (event) => {
    if (!event.buttons) return;
    context.lineTo(...place(event));
    context.stroke();
  });
  at("clear").addEventListener("click", clear);
  at("show").addEventListener("click", told(() =>
    underEveryLabel(fitted(pad, pad.width, pad.height), Number(at("label").value))));
  at("file").addEventListener("change", told(chosen));
  at("sample").addEventListener("click", told(makeUp));
}

// What goes wrong is said on the page.
function told(act) {
  return async () => {
    try {
      await act();
    } catch (error) {
      say(`That failed: ${error.message}`);
    }
  };
}

told(start)();
