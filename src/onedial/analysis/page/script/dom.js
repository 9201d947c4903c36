// Elements. Text of a log only ever enters the page as a text node, through the children of these functions, or as
// the value of an attribute of a fixed name: there is no innerHTML, so it is never markup.

const SVG = "http://www.w3.org/2000/svg";

// An HTML element. Attributes that begin with "on" are event listeners; null and false leave an attribute out.
function make(tag, attributes = {}, ...children) {
  return dress(document.createElement(tag), attributes, children);
}

// The same for SVG.
function draw(tag, attributes = {}, ...children) {
  return dress(document.createElementNS(SVG, tag), attributes, children);
}

function dress(node, attributes, children = []) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) node.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children.flat(Infinity)) {
    if (child !== null && child !== undefined) node.append(child.nodeType ? child : document.createTextNode(String(child)));
  }
  return node;
}
