// SPDX-License-Identifier: Apache-2.0
// Patch reordering with this run's own routes: patches are chosen for, fly into the experts' queues, and come back when
// their expert has run. Time goes from 0 to 3, a unit a stage; all that is drawn follows from it.

const canvas = document.getElementById("reordering-canvas");
if (canvas) {
  const profile = JSON.parse(document.getElementById("profile").textContent);
  const { patches_per_row: across, patches_per_column: down, prefix, patch, experts } = profile.model;
  const [layer, play, time, caption, count] = ["layer", "play", "time", "caption", "count"].map((name) => document.getElementById(`reordering-${name}`));
  const stages = [...document.querySelectorAll("[data-stage]")];
  const colours = canvas.dataset.colours.split(" ");
  const picture = document.getElementById("picture");
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  const SECONDS = 8; // of a stage
  const LABEL = 34; // pixels before a queue
  const LINE = 13; // pixels of its height at least

  let chips, queues, running, names;

  // As the router writes them: of every stream all first choices, then all second ones.
  function load() {
    const routes = profile.routes.filter((route) => route.layer === Number(layer.value));
    names = routes.map((route) => route.task);
    queues = Array.from({ length: experts }, () => []);
    chips = [];
    routes.forEach((route, stream) => {
      for (let choice = 0; choice < route.experts[0].length; choice++) {
        route.experts.forEach((chosen, token) => {
          const queue = queues[chosen[choice]];
          const chip = { stream, token, choice, expert: chosen[choice], place: queue.length };
          queue.push(chip);
          chips.push(chip);
        });
      }
    });
    running = queues.map((_, expert) => expert).filter((expert) => queues[expert].length);
    chips.forEach((chip, index) => {
      const turn = running.indexOf(chip.expert);
      chip.chosen = (0.95 * index) / chips.length;
      chip.leaves = 1 + (0.9 * index) / chips.length;
      chip.returns = 2 + (turn + 0.25 + (0.5 * chip.place) / queues[chip.expert].length) / running.length;
    });
    tell();
  }

  // What it saves: fetches of an expert's weights, one token after another and queue by queue.
  function tell() {
    let held = null;
    let fetches = 0;
    for (const route of profile.routes.filter((found) => found.layer === Number(layer.value))) {
      for (const chosen of route.experts) {
        for (const expert of chosen) {
          fetches += expert !== held;
          held = expert;
        }
      }
    }
    const bytes = profile.experts.find((row) => row.layer === Number(layer.value)).bytes;
    const size = (times) => `${((times * bytes) / 1e6).toFixed(2)} MB`;
    count.textContent =
      `Token after token, weights would be fetched ${fetches} times (${size(fetches)}); queue by queue, ` +
      `${running.length} times (${size(running.length)}): ${(fetches / running.length).toFixed(0)} times less.`;
  }

  function layout() {
    const width = canvas.clientWidth;
    const beside = Math.min(names.length, 2);
    const pictureWidth = Math.min((width - 12 * (beside - 1)) / beside, 480);
    const cell = pictureWidth / across;
    const pictureHeight = cell * down + 18 + (prefix ? cell + 2 : 0);
    const longest = Math.max(...queues.map((queue) => queue.length));
    const room = width - LABEL;
    const side = Math.max(width < 500 ? 9 : 13, Math.min(cell, room / longest));
    const perLine = Math.floor(room / side);
    const top = Math.ceil(names.length / beside) * (pictureHeight + 6) + 6;
    let y = top + 18;
    const rows = queues.map((queue) => {
      const row = y;
      y += Math.max(LINE, Math.ceil(queue.length / perLine) * side) + 7;
      return row;
    });
    return { width, height: y + 2, top, beside, pictureWidth, cell, pictureHeight, side, perLine, rows };
  }

  const ease = (x) => (x <= 0 ? 0 : x >= 1 ? 1 : x * x * (3 - 2 * x));

  function home(chip, at) {
    const x = (chip.stream % at.beside) * (at.pictureWidth + 12);
    const y = Math.floor(chip.stream / at.beside) * (at.pictureHeight + 6) + 16;
    if (chip.token < prefix) return [x + chip.token * at.cell, y];
    const n = chip.token - prefix;
    return [x + (n % across) * at.cell, y + (prefix ? at.cell + 2 : 0) + Math.floor(n / across) * at.cell];
  }

  const queued = (chip, at) => [LABEL + (chip.place % at.perLine) * at.side, at.rows[chip.expert] + Math.floor(chip.place / at.perLine) * at.side];

  function piece(context, chip, x, y, side) {
    if (chip.token < prefix) {
      context.fillStyle = "#888";
      context.fillRect(x, y, side, side);
      context.fillStyle = "#fff";
      if (side > 14) context.fillText("C", x + side / 2 - 4, y + side / 2 - 6);
    } else {
      const n = chip.token - prefix;
      const scale = picture.naturalWidth / (across * patch);
      const from = [(n % across) * patch * scale, Math.floor(n / across) * patch * scale];
      context.drawImage(picture, ...from, patch * scale, patch * scale, x, y, side, side);
    }
  }

  function frame(context, colour, x, y, side, width) {
    context.strokeStyle = colour;
    context.lineWidth = width;
    context.strokeRect(x + width / 2, y + width / 2, side - width, side - width);
  }

  function draw() {
    const t = time.valueAsNumber / 100;
    const at = layout();
    const ratio = window.devicePixelRatio || 1;
    canvas.style.aspectRatio = `${at.width} / ${at.height}`;
    canvas.width = at.width * ratio;
    canvas.height = at.height * ratio;
    const context = canvas.getContext("2d");
    context.scale(ratio, ratio);
    const style = getComputedStyle(document.body);
    context.font = `12px ${style.fontFamily}`;
    context.textBaseline = "top";
    const ink = style.color;
    const turn = t < 2 ? -1 : Math.min(running.length - 1, Math.floor((t - 2) * running.length));

    names.forEach((name, stream) => {
      const [x, y] = home({ stream, token: 0 }, at);
      context.fillStyle = ink;
      context.fillText(name, x, y - 15);
    });
    // The patches at home: bright at first, dim while they wait, bright again as their experts' results come.
    const choices = chips[chips.length - 1].choice + 1;
    const done = new Map();
    for (const chip of chips) {
      const key = chip.stream * 1e6 + chip.token;
      done.set(key, (done.get(key) || 0) + ease((t - chip.returns) * running.length * 4) / choices);
    }
    for (const chip of chips) {
      if (chip.choice) continue;
      const [x, y] = home(chip, at);
      const back = done.get(chip.stream * 1e6 + chip.token);
      context.globalAlpha = t < 1 ? 1 : 0.3 + 0.7 * Math.max(back, 1 - ease((t - chip.leaves) * 10));
      piece(context, chip, x, y, at.cell);
      context.globalAlpha = 1;
      if (t > chip.chosen && t < 2) frame(context, colours[chip.expert], x, y, at.cell, Math.max(1.5, at.cell / 8));
    }
    context.fillStyle = ink;
    context.fillText("queues, one for each expert", 0, at.top);
    // The queues: a numbered line each; the one whose expert runs is marked.
    at.rows.forEach((y, expert) => {
      const active = running[turn] === expert && t < 3;
      context.fillStyle = colours[expert];
      context.fillRect(0, y, LABEL - 6, LINE);
      if (active) {
        const bottom = (at.rows[expert + 1] ?? at.height) - 5;
        context.strokeStyle = ink;
        context.lineWidth = 2;
        context.strokeRect(1, y - 2, at.width - 2, bottom - y + 2);
      }
      context.fillStyle = "#000";
      context.fillText(expert, 4, y + 1);
    });
    for (const chip of chips) {
      const out = ease((t - chip.leaves) * 10);
      const back = ease((t - chip.returns) * running.length * 4);
      if (out <= 0 || back >= 1) continue;
      const [from, to] = [home(chip, at), queued(chip, at)];
      const share = out - back;
      const side = at.cell + (at.side - at.cell) * share;
      const x = from[0] + (to[0] - from[0]) * share;
      const y = from[1] + (to[1] - from[1]) * share;
      piece(context, chip, x, y, side);
      frame(context, colours[chip.expert], x, y, side, 1);
    }
    say(t, turn);
  }

  function say(t, turn) {
    const fetched = turn + 1;
    const longest = queues[running[Math.max(turn, 0)]].length;
    const tokens = chips.length / names.length / (chips[chips.length - 1].choice + 1);
    const texts = [
      `${names.length > 1 ? "For each task, the" : "The"} router looks at all ${tokens} tokens and chooses experts for each: ` +
        `the frame has the colour of the first choice${prefix === 1 ? " (C: the CLS token)" : ""}.`,
      "Every token is entered into the queues of its experts. Nothing is computed yet; these are row numbers and scores.",
      t >= 3
        ? `All ${running.length} experts with tokens have run; each fetched its weights once.`
        : `Expert ${running[Math.max(turn, 0)]} runs: its weights are fetched, for all of its ${longest} tokens ` +
          `(${fetched} of ${running.length} fetches). Patches are bright again when all their results have come.`,
    ];
    const stage = Math.min(2, Math.floor(t));
    if (caption.textContent !== texts[stage]) caption.textContent = texts[stage];
    stages.forEach((button, index) => button.setAttribute("aria-pressed", String(index === stage)));
    time.setAttribute("aria-valuetext", `stage ${stage + 1} of 3`);
  }

  let before = null;
  function tick(now) {
    if (play.textContent !== "Pause") return;
    if (before !== null) {
      const passed = (now - before) / 1000 / SECONDS;
      // Where motion is not wanted, stage follows stage, and expert expert, without anything in between.
      const wanted = Number(time.dataset.exact ?? time.value / 100) + passed;
      time.dataset.exact = wanted;
      time.value = 100 * (still.matches ? Math.floor(wanted) + 0.999 : wanted);
      draw();
      if (wanted >= 3) stop();
    }
    before = now;
    requestAnimationFrame(tick);
  }

  function stop() {
    play.textContent = "Play";
    before = null;
    delete time.dataset.exact;
  }

  play.addEventListener("click", () => {
    if (play.textContent === "Pause") {
      stop();
    } else {
      if (time.valueAsNumber >= 300) time.value = 0;
      play.textContent = "Pause";
      requestAnimationFrame(tick);
    }
  });
  for (const button of stages) {
    button.addEventListener("click", () => {
      stop();
      time.value = 100 * Number(button.dataset.stage) + (still.matches ? 99 : 0);
      draw();
      if (!still.matches) play.click();
    });
  }
  time.addEventListener("input", () => {
    stop();
    draw();
  });
  layer.addEventListener("input", () => {
    load();
    draw();
  });
  addEventListener("resize", draw);
  addEventListener("beforeprint", draw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  await picture.decode();
  load();
  draw();
  document.documentElement.dataset.reordering = "drawn";
}
