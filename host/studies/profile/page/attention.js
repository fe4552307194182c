// SPDX-License-Identifier: Apache-2.0
// Attention of one patch over the picture, head by head: rows of a grey picture, [heads * queries, keys].

const profile = JSON.parse(document.getElementById("profile").textContent);
const { patches_per_row: across, patches_per_column: down, prefix, patch, heads } = profile.model;
const tokens = across * down + prefix;
const [layer, task, query, where] = ["layer", "task", "query", "where"].map((name) => document.getElementById(`attention-${name}`));
const canvases = [...document.querySelectorAll("#attention-heads canvas")];
const picture = document.getElementById("picture");
const loaded = new Map(); // address -> its grey values

function place(token) {
  if (token < prefix) return prefix === 1 ? "the CLS token" : `row ${token} before the patches`;
  const n = token - prefix;
  return `row ${Math.floor(n / across) + 1}, column ${(n % across) + 1}`;
}

async function values(address) {
  if (!loaded.has(address)) {
    const image = new Image();
    image.src = address;
    await image.decode();
    const canvas = new OffscreenCanvas(image.width, image.height);
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0);
    const pixels = context.getImageData(0, 0, image.width, image.height).data;
    loaded.set(address, pixels.filter((_, index) => index % 4 === 0));
  }
  return loaded.get(address);
}

function show(canvas, row) {
  const context = canvas.getContext("2d");
  canvas.width = across * patch;
  canvas.height = down * patch;
  context.filter = "grayscale(1) brightness(0.55)";
  context.drawImage(picture, 0, 0, canvas.width, canvas.height);
  context.filter = "none";
  for (let n = 0; n < across * down; n++) {
    context.fillStyle = `rgba(255, 196, 0, ${(0.85 * row[n + prefix]) / 255})`;
    context.fillRect((n % across) * patch, Math.floor(n / across) * patch, patch, patch);
  }
  const own = query.valueAsNumber - prefix;
  if (own >= 0) {
    context.strokeStyle = "#fff";
    context.lineWidth = Math.max(2, patch / 6);
    context.strokeRect((own % across) * patch, Math.floor(own / across) * patch, patch, patch);
  }
}

async function update() {
  const token = query.valueAsNumber;
  where.textContent = place(token);
  query.setAttribute("aria-valuetext", place(token));
  const found = profile.attention.find((row) => row.layer === Number(layer.value) && row.task === task.value);
  const grey = await values(found.png);
  canvases.forEach((canvas, head) => {
    const row = grey.slice((head * tokens + token) * tokens, (head * tokens + token + 1) * tokens);
    show(canvas, row);
    canvas.setAttribute("aria-label", `Head ${head}: ${place(token)} looks most at ${place(row.indexOf(Math.max(...row)))}`);
  });
}

for (const control of [layer, task, query]) control.addEventListener("input", update);
for (const canvas of canvases) {
  canvas.addEventListener("click", (event) => {
    const column = Math.floor((event.offsetX / canvas.clientWidth) * across);
    const row = Math.floor((event.offsetY / canvas.clientHeight) * down);
    query.value = prefix + Math.min(down - 1, row) * across + Math.min(across - 1, column);
    update();
  });
}
query.value = prefix + Math.floor(down / 2) * across + Math.floor(across / 2);
await picture.decode();
await update();
document.documentElement.dataset.attention = "drawn";
