// Draws the report's figures. It stands behind units.js and charts.js in one script.
/* global drawChart, recolourCharts, marks, inWords */

const specs = JSON.parse(document.getElementById("figures").textContent);
specs.forEach((spec, i) => {
  const box = document.getElementById(`plot-${i}`);
  const figure = box.closest("figure");
  drawChart(box, figure.querySelector(".legend"), spec, { marks, inWords });
  figure.querySelector("details").open = false; // its numbers, which are all there is without a script
});
document.addEventListener("themechange", recolourCharts);
if (innerWidth < 640) for (const one of document.querySelectorAll("details.long")) one.open = false;
addEventListener("beforeprint", () => {
  for (const one of document.querySelectorAll("details")) one.open = true;
});
