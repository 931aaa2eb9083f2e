// What the page's tests measure in a browser: what a person would call broken.

window.measurePage = () => {
  const root = document.documentElement;
  const box = (e) => e.getBoundingClientRect();
  const seen = (e) => e.checkVisibility() && box(e).width > 1;
  const said = (e) => `${e.tagName}.${e.className} ${box(e).left} ${box(e).right} ${e.textContent.trim().slice(0, 60)}`;
  // A chart clips itself, and is measured by measureCharts; a phone has no head of a table.
  const all = [...document.querySelectorAll("body *")].filter((e) => seen(e) && !e.closest(".plot, .skip, thead, script, noscript"));
  const cards = [...document.querySelectorAll(".card, .facts")].filter(seen).map(box);
  return {
    wide: root.scrollWidth - root.clientWidth,
    out: all.filter((e) => box(e).right > innerWidth + 1 || box(e).left < -1).slice(0, 5).map(said),
    cut: all.filter((e) => getComputedStyle(e).display !== "inline" && e.scrollWidth > e.clientWidth + 1).slice(0, 5).map(said),
    tall: root.scrollHeight,
    right: Math.max(...cards.map((c) => c.right)) / box(document.querySelector("main")).right,
    bottom: (Math.max(...cards.map((c) => c.bottom)) + scrollY) / innerHeight,
  };
};

window.measureCharts = () => [...document.querySelectorAll(".plot")].map((box) => {
  const { plot } = box;
  const canvas = box.querySelector("canvas");
  const { width, height } = canvas;
  const pen = canvas.getContext("2d");
  // Ink in the outermost pixels belongs to something that was cut.
  const edges = [[0, 0, 1, height], [width - 1, 0, 1, height], [0, height - 1, width, 1], [0, 0, width, 1]];
  const inked = edges.map((edge) => pen.getImageData(...edge).data.some((v, i) => i % 4 === 3 && v > 40));
  const [x, y] = plot.axes;
  const ruler = document.createElement("canvas").getContext("2d");
  ruler.font = `12px ${getComputedStyle(box).fontFamily}`;
  const wide = (text) => ruler.measureText(text ?? "").width;
  const marks = x._values.map((text, i) => ({ text, at: plot.valToPos(x._splits[i], "x"), half: wide(text) / 2 })).filter((m) => m.text);
  return {
    inked,
    fits: canvas.getBoundingClientRect().right <= box.getBoundingClientRect().right + 1,
    room: y._size - Math.max(0, ...y._values.map(wide)), // left beside the widest mark
    touching: marks.some((m, i) => i > 0 && m.at - m.half < marks[i - 1].at + marks[i - 1].half + 2),
    x: x._values.filter(Boolean),
    y: y._values.filter(Boolean),
  };
});
