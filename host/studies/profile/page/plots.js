// SPDX-License-Identifier: Apache-2.0
// Draws every plot with the profile's own tables as its data, and moves the window of time.

const profile = JSON.parse(document.getElementById("profile").textContent);
const plots = JSON.parse(document.getElementById("plots").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)");

async function draw(element) {
  const spec = plots[element.dataset.plot];
  const tables = ["timeline", "activity", "parts", "queues", "decibels", "bytes"];
  spec.datasets = Object.fromEntries(tables.filter((name) => JSON.stringify(spec).includes(`"name":"${name}"`))
    .map((name) => [name, profile[name]]));
  spec.description = document.getElementById(element.getAttribute("aria-labelledby")).textContent;
  const options = { actions: false, renderer: "svg", tooltip: { theme: dark.matches ? "dark" : "light" } };
  return (await vegaEmbed(element, spec, options)).view;
}

const views = {};
for (const element of document.querySelectorAll("[data-plot]")) views[element.dataset.plot] = await draw(element);

// Parts of the model follow one another; each is a window of the timeline.
const choice = document.getElementById("window");
const windows = [[0, profile.cycles]];
let last = null;
for (const row of profile.timeline) {
  const name = profile.passes > 1 ? `pass ${row.run + 1}, ${row.part}` : row.part;
  if (name && name !== last) {
    choice.add(new Option(name));
    windows.push([row.start, row.end]);
    last = name;
  }
  windows.at(-1)[1] = row.end;
}
windows[0] = [0, profile.cycles];
choice.addEventListener("change", () => {
  const [from, to] = windows[choice.selectedIndex];
  for (const name of ["timeline", "activity", "bus"]) views[name].signal("from", from).signal("to", to).runAsync();
});
document.documentElement.dataset.plots = "drawn";
